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
