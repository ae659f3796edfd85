// One item: its images, what each predicts, what text alone predicts, and the mixture.

const ROWS = 12;

function picture(number, alt, side) {
  const code = known(number) ? DATA.pictures[number] : null;
  if (!code)
    return el('span', { class: 'missing', role: 'img', 'aria-label': `${alt}: not in the store` }, 'not in the store');
  return el('img', {
    src: `data:image/jpeg;base64,${code}`,
    alt,
    class: 'picture',
    width: side,
    height: side,
    loading: 'lazy',
  });
}

const mark = (ok) => (ok === null ? null : el('span', { class: ok ? 'right' : 'wrong' }, ok ? '✓ right' : '✗ wrong'));

function detail(item, state, change) {
  const wording = item.wordings[state.wording];
  const long = wording.text.length > 240 || wording.text.split('\n').length > 3;
  const facts = [
    item.targets.length ? ['label', item.targets.join(' / ')] : null,
    item.about && item.kind !== 'loss' ? ['about', item.about] : null,
    item.group ? ['people agree on', item.group] : null,
    item.covered === false ? ['note', 'the image generator cannot draw it'] : null,
    item.id ? ['item', item.id] : null,
    item.steps ? ['steps', item.steps] : null,
  ].filter(Boolean);
  return el(
    'article',
    { class: 'detail', 'aria-label': wording.text },
    el('h3', { class: long ? 'long' : null, tabindex: long ? '0' : null }, wording.text),
    el(
      'dl',
      { class: 'facts' },
      facts.map(([name, text]) => el('div', {}, el('dt', {}, name), el('dd', {}, text))),
    ),
    item.wordings.length > 1 && wordingChoice(item, state, change),
    state.runs.map((run, i) => block(item, run, state, change, state.runs.length > 1 ? 'AB'[i] : null)),
  );
}

function wordingChoice(item, state, change) {
  const marks = (place) => state.runs.map((run) => ({ true: '✓', false: '✗' })[run.wordings[place].ok] || '').join('');
  const options = item.wordings.map((own, place) =>
    el(
      'option',
      { value: String(place), selected: place === state.wording },
      `${marks(place)} ${own.text.length > 90 ? `…${own.text.slice(-88)}` : own.text}`,
    ),
  );
  return el(
    'label',
    { class: 'pick' },
    el('span', {}, `wording (${item.wordings.length})`),
    el(
      'select',
      { 'data-pick': 'wording', onchange: (event) => change({ wording: Number(event.target.value), candidate: null }) },
      options,
    ),
  );
}

function block(item, run, state, change, side) {
  const found = run.wordings[state.wording];
  const parts = { choice: matrix, outputs: outputs, loss: losses, reply: () => null }[item.kind](item, run, found, state, change);
  return el(
    'section',
    { class: 'block' },
    side && el('h4', {}, `Run ${side}`, known(run.seed) && el('span', { class: 'aside' }, `seed ${run.seed}`)),
    strip(given(run)),
    answered(found, pictured(run)),
    parts,
    pictured(run) && imagined(run),
  );
}

// Images that stood in the text.
const given = (run) => run.shown || [];
const pictured = (run) => given(run).length > 0 || run.sets.some((set) => set.length);

// What was answered, and what text alone would have.
function answered(found, seen) {
  if (!known(found.answer)) return null;
  const changed = found.alone !== found.answer;
  return el(
    'p',
    { class: 'answered' },
    el('b', {}, found.answer || '(nothing)'),
    ' ',
    mark(found.ok),
    seen &&
      known(found.alone) &&
      el('span', { class: 'aside' }, changed ? `text only: ${found.alone || '(nothing)'}` : 'text only gives the same answer'),
  );
}

function imagined(run) {
  if (!run.prompts.length) return null;
  const shown = run.prompts
    .slice(0, 6)
    .map((prompt) => `“${prompt}”`)
    .join(', ');
  const mean = known(run.alignment) ? `; mean CLIP similarity ${fixed(run.alignment, 2)}` : '';
  return el(
    'p',
    { class: 'imagined' },
    `imagined ${shown}${run.prompts.length > 6 ? ` and ${run.prompts.length - 6} more` : ''}${mean}`,
    run.low ? el('span', { class: 'low' }, ' low: the images are guesses') : null,
  );
}

// The images of a wording; where every candidate has its own, those of one that can be chosen.
function chosenSet(item, run, found, state, change, names, best) {
  if (!Array.isArray(found.set)) return [run.sets[found.set] || [], null, null];
  const candidate = state.candidate ?? best;
  const pick = el(
    'label',
    { class: 'pick' },
    el('span', {}, 'images imagined for'),
    el(
      'select',
      { 'data-pick': 'candidate', onchange: (event) => change({ candidate: Number(event.target.value) }) },
      names.map((name, place) => el('option', { value: String(place), selected: place === candidate }, name)),
    ),
  );
  return [run.sets[found.set[candidate]] || [], candidate, pick];
}

function matrix(item, run, found, state, change) {
  const names = item.wordings[state.wording].names || item.names;
  const order = names.map((_, i) => i).sort((a, b) => found.mixed[b] - found.mixed[a] || found.text[b] - found.text[a]);
  const [set, candidate, pick] = chosenSet(item, run, found, state, change, names, order[0]);
  const right = item.wordings[state.wording].right;
  const columns = [
    ...(item.people ? [{ head: el('span', { class: 'what' }, 'people'), shares: item.people, kind: 'people' }] : []),
    ...(found.images.length || given(run).length
      ? [{ head: el('span', { class: 'what mixed' }, 'with images'), shares: found.mixed, kind: 'mixed' }]
      : []),
    { head: el('span', { class: 'what text' }, 'text only'), shares: found.text, kind: 'text' },
    ...found.images.map((shares, i) => ({
      head: [pictureHead(set, i, found.alignment[i], candidate), run.why && evidence(run.why, set, i)],
      shares,
      kind: 'image',
    })),
  ];
  const shown = state.whole ? order : order.filter((place, rank) => rank < ROWS || place === right);
  const body = shown.map((place) =>
    el(
      'tr',
      { class: place === right ? 'label' : null },
      el('th', { scope: 'row' }, names[place], place === right && el('span', { class: 'tag' }, ' label')),
      columns.map((column) => share(column, place)),
    ),
  );
  const head = el(
    'tr',
    {},
    el('td'),
    columns.map((column) => el('th', { scope: 'col', class: column.kind }, column.head)),
  );
  const table = el(
    'table',
    { class: 'matrix' },
    el('caption', { class: 'hidden' }, 'Shares of the candidates, in percent'),
    el('thead', {}, head),
    el('tbody', {}, body),
  );
  const more =
    shown.length < order.length &&
    el(
      'button',
      { type: 'button', class: 'more', onclick: () => change({ whole: true }) },
      `all ${order.length} candidates`,
    );
  return [pick, frame('What each image predicts, in percent', table), more, run.why && whyLegend()];
}

// What in an image speaks for the answer, and how far the image moved it.
function evidence(why, set, i) {
  if (!known(why.layers[i])) return null;
  const moved = `${why.images[i] < 0 ? '' : '+'}${fixed(why.images[i], 1)}`;
  const without = fixed(why.left_out[i], 2);
  return [
    el(
      'span',
      { class: 'evidence' },
      picture(set[i], `evidence in image ${i + 1}`, 72),
      el('img', { class: 'layer', src: `data:image/png;base64,${why.layers[i]}`, alt: '' }),
    ),
    el('span', { class: 'moved', title: `against the other images alone: ${without} nats` }, moved),
  ];
}

const whyLegend = () =>
  el(
    'p',
    { class: 'why' },
    'Below each image, what moved the answer: ',
    el('b', { class: 'for' }, 'orange'),
    ' patches speak for it, ',
    el('b', { class: 'against' }, 'blue'),
    ' ones against it. The number is how far the image moved the answer’s log-odds from those of text only, in nats: 0.7 doubles the odds.',
  );

function pictureHead(set, i, alignment, candidate) {
  const own = Array.isArray(alignment) ? alignment[candidate ?? 0] : alignment;
  const text = known(own) ? fixed(own, 2) : '?';
  const low = known(own) && known(DATA.floor) && own < DATA.floor;
  return [
    picture(set[i], `image ${i + 1}`, 72),
    el(
      'span',
      { class: low ? 'alignment low' : 'alignment', title: 'CLIP similarity of the image and its prompt' },
      el('span', { class: 'aligned' }, 'align. '),
      text,
    ),
  ];
}

// Say how many of an answer's images do not count.
function ignored(item) {
  const { alignment = [] } = item.runs[0].wordings[0];
  const low = alignment.filter((fit) => known(fit) && known(DATA.floor) && fit < DATA.floor).length;
  const verbs = low === 1 ? ['does', 'is'] : ['do', 'are'];
  return low ? el('p', { class: 'guide' }, `${plural(low, 'image')} with an orange similarity ${verbs[0]} not fit the prompt, and ${verbs[1]} not listened to.`) : '';
}

function share(column, place) {
  const value = column.shares[place] / 1000;
  const top = value > 0 && column.shares[place] === Math.max(...column.shares);
  return el(
    'td',
    { class: `${column.kind}${top ? ' top' : ''}${value < 0.005 ? ' small' : ''}` },
    el('span', { class: 'fill', style: { width: `${100 * value}%` } }),
    el('span', { class: 'number' }, percent(value)),
  );
}

const strip = (set) =>
  set.length > 0 &&
  el(
    'div',
    { class: 'strip' },
    set.map((number, i) => picture(number, `image ${i + 1}`, 72)),
  );

function outputs(item, run, found) {
  const body = found.outputs.map(([k, text, exact, f1]) =>
    el(
      'tr',
      { class: k === DATA.k ? 'label' : null },
      el('th', { scope: 'row' }, k ? `k = ${k}` : 'text only'),
      el('td', { class: 'left free' }, text || '(nothing)'),
      el('td', {}, mark(exact > 0)),
      el('td', {}, percent(f1)),
    ),
  );
  const head = el(
    'tr',
    {},
    ['', 'generated', '', 'F1'].map((name) =>
      el('th', { scope: 'col', class: name === 'generated' ? 'left' : null }, name),
    ),
  );
  return [
    strip(run.sets[found.set] || []),
    frame('Generated answers', el('table', { class: 'plain' }, el('thead', {}, head), el('tbody', {}, body))),
  ];
}

function losses(item, run, found, state, change) {
  const names = item.wordings[state.wording].names || item.names || [];
  const best = names.indexOf(found.answer);
  const [set, , pick] = chosenSet(item, run, found, state, change, names, Math.max(0, best));
  const right = item.wordings[state.wording].right;
  const ks = found.losses.map(([k]) => k);
  const label = (k) => (k ? `k = ${k}` : 'text only');
  const rows = names.length
    ? names.map((name, place) => [
        name,
        place === right,
        found.losses.map(([, own]) => [own[place].toFixed(3), own[place] === Math.min(...own)]),
      ])
    : [
        ['loss per token', false, found.losses.map(([, own]) => [own[0].toFixed(4), false])],
        ['perplexity', false, found.losses.map(([, own]) => [Math.exp(own[0]).toFixed(2), false])],
      ];
  const body = rows.map(([name, target, cells]) =>
    el(
      'tr',
      { class: target ? 'label' : null },
      el('th', { scope: 'row' }, name, target && el('span', { class: 'tag' }, ' label')),
      cells.map(([text, top]) => el('td', { class: top ? 'top' : null }, text)),
    ),
  );
  const head = el(
    'tr',
    {},
    el('td', {}, names.length ? 'loss per token' : ''),
    ks.map((k) => el('th', { scope: 'col' }, label(k))),
  );
  return [
    pick,
    strip(set),
    frame(
      'Loss by number of images',
      el('table', { class: 'plain losses' }, el('thead', {}, head), el('tbody', {}, body)),
    ),
  ];
}
