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
  return section('agreement', 'Beside what people say', el('p', { class: 'guide' }, guide), agreementTable(DATA), peopleExamples(DATA), agreementConditions(DATA));
}

// The one sentence that says what was found.
const finding = () => el('p', { class: 'finding' }, DATA.finding.replaceAll(' -> ', ' → '));

// What the words of the results mean, those that occur.
function resultsGuide() {
  const has = (name) => DATA.main.some((row) => row.cells[name]);
  return [
    'Accuracy in percent; below it the 95 % interval, Wilson’s over objects.',
    has('shuffled') && 'Shuffled: with other objects’ images. Visual gain: the object’s images against those.',
    DATA.main.some((row) => row.subset === 'covered') && 'Covered: items about things that the image generator can draw.',
    DATA.main.some((row) => known(row.majority)) && 'Majority: always the commonest answer. Balanced: the mean over answers, each counting the same.',
    DATA.stopping.length > 0 && 'k = auto: as many images as each answer needs, on average the number below.',
    VERDICT,
  ]
    .filter(Boolean)
    .join(' ');
}

const VERDICT =
  'Verdict: “better” or “worse” only where the p-value, adjusted for all comparisons of this page (Holm), is below 0.05; else “tied”, which may also mean too few items.';

function runPage() {
  const calibration =
    'Left, accuracy by the number of images. Right, of answers given with some confidence, how many are right: on the diagonal it knows what it knows. ' +
    'ECE, the expected calibration error, is the mean distance from the diagonal, weighted by answers, in percent: 0 is best.';
  const gaps =
    '“Finds” is the smallest true difference that would have been found in four of five such runs. McNemar: the exact test of how many changed either way.';
  const scored = DATA.main.length > 0; // a run of audits alone has no accuracies
  const parts = [
    el('header', {}, el('h1', {}, 'Evaluation'), finding(), pairs(DATA.head.facts, 'facts'), provenance(DATA.head)),
    scored && section('overview', 'With and without images', el('p', { class: 'guide' }, 'Each with its 95 % interval over objects.'), dotGrid(DATA)),
    scored && section('results', 'Results', el('p', { class: 'guide' }, resultsGuide()), mainTable(DATA)),
    agreementSection(),
    groupSection(),
    pairSection(),
    scored && section('curves', 'Curves and calibration', el('p', { class: 'guide' }, calibration), chartGrid(DATA)),
    browserSection(),
    scored && section(
      'differences',
      'Differences',
      DATA.comparisons.length
        ? [el('p', { class: 'guide' }, VERDICT, ' ', gaps), differences(DATA)]
        : el('p', { class: 'guide' }, 'Nothing was measured to compare with.'),
    ),
    scored && section('conditions', 'Conditions', conditions(DATA)),
  ];
  page.append(...parts.filter(Boolean));
}

function comparisonPage() {
  page.append(
    el(
      'header',
      {},
      el('h1', {}, 'Two runs compared'),
      finding(),
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
      el('p', { class: 'guide' }, 'Counts are wordings of items; accuracies in percent with their 95 % intervals. ', VERDICT),
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
    ignored(item),
  );
}

function trainingPage() {
  const guide =
    'Loss in nats per token of texts held out by image: beside their own image, another’s, a blank one, and by text alone. ' +
    'It sees where its own image leaves the others clearly behind (2 % here); blank below text is only the style of the texts.';
  const nats = (value) => fixed(value, 2);
  page.append(
    el('header', {}, el('h1', {}, 'Training'), finding(), folded('Recipe', () => el('pre', { tabindex: '0' }, DATA.recipe))),
    ...DATA.stages.map((stage, i) => {
      const { own = [], shuffled = [], blank = [], text = [] } = stage.curves;
      const facts = { trains: stage.trains.join(', '), batch: String(stage.batch), steps: String(stage.steps ?? '') };
      const drawn = [
        trace('held-out loss', nats, [['text', 'text alone', text], ['blank', 'blank', blank], ['shuffled', 'another’s', shuffled], ['pictures', 'its own', own]]),
        trace('training loss', nats, [['pictures', 'loss', stage.loss]]),
        trace('probe, right in %', (share) => percent(share, 0), Object.entries(stage.probe).map(([name, points]) => [/text only/.test(name) ? 'text' : 'pictures', name, points])),
        trace('samples per second', (value) => fixed(value, 0), [['pictures', 'speed', stage.speed]]),
      ].filter(Boolean);
      return section(
        `stage-${i}`,
        `Stage ${stage.name}`,
        DATA.stages.length > 1 && el('p', {}, stage.verdict),
        pairs(facts, 'facts'),
        el('p', { class: 'guide' }, guide),
        el('div', { class: 'charts' }, drawn),
        stage.sources.map(trainingSource),
      );
    }),
  );
}

function trainingSource(source) {
  const counts = Object.fromEntries(Object.entries(source.counts).map(([name, count]) => [name, count.toLocaleString('en')]));
  const bad = source.bad.map((record) => el('tr', {}, el('td', { class: 'left' }, record.reason), el('td', { class: 'left free' }, record.place)));
  return el(
    'div',
    { class: 'source' },
    el('h3', {}, `Data: ${source.name}`),
    pairs(counts, 'facts'),
    source.samples.length > 0 &&
      el(
        'div',
        { class: 'samples' },
        source.samples.map((sample) => el('figure', {}, sample.pictures.map((number) => picture(number, '', 128)), el('figcaption', {}, sample.caption))),
      ),
    source.missing && el('p', { class: 'guide' }, `No pair is shown: ${source.missing}.`),
    bad.length > 0 && folded(`The first ${plural(bad.length, 'record')} that is bad or left out`, () => frame('Bad records', el('table', { class: 'plain' }, el('tbody', {}, bad)))),
  );
}

({ run: runPage, training: trainingPage, comparison: comparisonPage, answer: answerPage })[DATA.kind]();
