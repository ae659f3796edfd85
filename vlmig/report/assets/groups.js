// Accuracy by groups of items, and which group is served worst.

function groupTable(rows) {
  const cell = (name) => (r) => [
    el('span', { class: 'value' }, percent(r[name])),
    el('span', { class: 'under' }, interval(r[`${name}_ci95`])),
  ];
  const columns = [
    ...['task', 'by', 'group'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'items', value: (r) => r.n, show: (r) => String(r.n) },
    { name: 'text only', value: (r) => r.text_only, show: cell('text_only') },
    { name: 'with images', value: (r) => r.acc, show: cell('acc') },
    {
      name: 'gain',
      value: (r) => r.gain,
      show: (r) => [
        el('span', { class: 'value' }, signed(r.gain)),
        el('span', { class: 'under' }, signedInterval(r.gain_ci95)),
      ],
    },
  ];
  return sortable('Accuracy by groups of items', columns, rows);
}

function groupSection() {
  if (!DATA.groups) return null;
  const guide =
    'Accuracy in percent, with 95 % intervals over objects. Best and worst are the groups of five objects or more that lie ' +
    'farthest apart; p is how often groups dealt at random lie as far apart.';
  return section(
    'groups',
    'By group',
    el('p', { class: 'guide' }, guide),
    el(
      'ul',
      { class: 'notes' },
      DATA.groups.spreads.map((line) => el('li', {}, line)),
    ),
    groupTable(DATA.groups.rows),
  );
}

// Audits by minimal pairs: how far apart the answers about two sides are.
function pairSection() {
  if (!DATA.pairs.length) return null;
  const cell = (name) => (r) =>
    known(r[name]) && [
      el('span', { class: 'value' }, fixed(r[name], 3)),
      el('span', { class: 'under' }, r[`${name}_ci95`].map((end) => fixed(end, 2)).join('–')),
    ];
  const columns = [
    ...['task', 'group'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'pairs', value: (r) => r.n, show: (r) => String(r.n) },
    { name: 'text only', value: (r) => r.text, show: cell('text') },
    { name: 'with images', value: (r) => r.images, show: cell('images') },
    { name: 'change', value: (r) => r.change, show: cell('change') },
    { name: 'one side', value: (r) => r.within, show: cell('within') },
  ];
  const named = DATA.pairs.flatMap((row) => row.largest || []);
  const line = (pair) =>
    `${pair.one} / ${pair.two}: “${pair.candidate}” ${percent(pair.shares[0], 0)} / ${percent(pair.shares[1], 0)} %, ` +
    `apart ${fixed(pair.text, 2)} by text only, ${fixed(pair.images, 2)} with images`;
  const guide =
    'The same is asked about two sides; nothing is right. Total variation of the two distributions of answers: 0 where both ' +
    'are answered alike, 1 where they share nothing. One side: between two halves of the same side’s images, which is scatter. ' +
    'Below, the pairs that images move farthest apart.';
  return section(
    'pairs',
    'Minimal pairs',
    el('p', { class: 'guide' }, guide),
    sortable('Minimal pairs', columns, DATA.pairs),
    el(
      'ul',
      { class: 'notes' },
      named.map((pair) => el('li', {}, line(pair))),
    ),
  );
}
