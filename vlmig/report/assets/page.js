// The page from its data.

const DATA = JSON.parse(document.getElementById('data').textContent);
const page = document.getElementById('page');
page.className = DATA.kind;

const pairs = (values, kind, others = values) =>
  el(
    'dl',
    { class: kind },
    Object.entries(values).map(([name, text]) =>
      el('div', { class: others[name] === text ? null : 'differs' }, el('dt', {}, name), el('dd', {}, text)),
    ),
  );

function provenance(head) {
  return folded('How it was measured', () =>
    el(
      'div',
      { class: 'columns' },
      Object.entries(head.details).map(([title, values]) =>
        el('div', {}, el('h3', {}, title), pairs(values, 'list-of-facts')),
      ),
    ),
  );
}

function browserSection() {
  if (!DATA.items.length) return null;
  const shown = DATA.items.length;
  const all =
    DATA.total > shown
      ? `The first ${plural(shown, 'item')} of ${DATA.total.toLocaleString('en')}, spread evenly over the tasks. `
      : '';
  const differing =
    DATA.kind === 'comparison' && DATA.total > shown ? 'Items on which the runs differ come first. ' : '';
  const keys = el(
    'span',
    { class: 'keys' },
    [
      ['/', 'search'],
      ['↑ ↓ or j k', 'move'],
      ['Enter', 'open'],
    ].map(([key, text]) => el('span', {}, el('kbd', {}, key), ` ${text}`)),
  );
  return section('items', 'Items', el('p', { class: 'guide' }, all, differing, keys), new Browser().root);
}

function agreementSection() {
  if (!DATA.agreement.length) return null;
  const guide =
    'Jensen-Shannon divergence of the predicted distribution from people’s, in nats: 0 is theirs, 0.693 shares nothing with it. ' +
    'Below it the 95 % interval over objects, and Kendall’s rank correlation. ' +
    'Groups: people name a single answer, multiple ones, or any. Votes: the share of images by their own answers. ' +
    'Less: the difference at the largest k; verdicts are Holm’s over this table. Right: accuracy where most people agree.';
  return section('agreement', 'Beside what people say', el('p', { class: 'guide' }, guide), agreementTable(DATA), agreementConditions(DATA));
}

function runPage() {
  const guide =
    'Accuracy in percent; below it the 95 % interval, Wilson’s over objects. Visual gain: the object’s images against other objects’. ' +
    'A verdict is “better” or “worse” only where the p-value, adjusted for all comparisons of this page (Holm), is below 0.05.';
  page.append(
    el('header', {}, el('h1', {}, 'Evaluation'), pairs(DATA.head.facts, 'facts'), provenance(DATA.head)),
    section('results', 'Results', el('p', { class: 'guide' }, guide), mainTable(DATA)),
    agreementSection() || '',
    groupSection() || '',
    pairSection() || '',
    section('curves', 'Curves and calibration', chartGrid(DATA)),
    browserSection() || '',
    section(
      'differences',
      'Differences',
      DATA.comparisons.length
        ? differences(DATA)
        : el('p', { class: 'guide' }, 'Nothing was measured to compare with.'),
    ),
    section('conditions', 'Conditions', conditions(DATA)),
  );
}

function comparisonPage() {
  page.append(
    el(
      'header',
      {},
      el('h1', {}, 'Two runs compared'),
      el(
        'div',
        { class: 'columns' },
        DATA.heads.map((head, i) =>
          el(
            'div',
            {},
            el('h3', {}, `Run ${'AB'[i]}`, el('span', { class: 'aside' }, head.details.run.results)),
            pairs(head.facts, 'list-of-facts', DATA.heads[1 - i].facts),
            provenance(head),
          ),
        ),
      ),
    ),
    section(
      'results',
      'Results',
      el('p', { class: 'guide' }, 'Counts are wordings of items; accuracies in percent with their 95 % intervals.'),
      pairedTable(DATA),
      el(
        'ul',
        { class: 'notes' },
        DATA.notes.map((note) => el('li', {}, note)),
      ),
    ),
    browserSection() || '',
  );
}

function answerPage() {
  const [item] = DATA.items;
  const state = { wording: 0, candidate: null, whole: true, runs: item.runs };
  page.append(
    el('header', {}, el('h1', {}, 'Answer')),
    detail(item, state, () => {}),
  );
}

({ run: runPage, comparison: comparisonPage, answer: answerPage })[DATA.kind]();
