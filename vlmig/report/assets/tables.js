// Tables: the main one, differences, all conditions; and a comparison of two runs.

function sortable(label, columns, rows, groups = null) {
  // columns: {name, value: row => number or text, show: row => cell content, left}
  const body = el('tbody');
  const heads = columns.map((column, place) =>
    el(
      'th',
      { scope: 'col', class: column.left ? 'left' : null },
      el(
        'button',
        { type: 'button', class: 'sort', onclick: () => sort(place) },
        column.name,
        el('span', { class: 'arrow', 'aria-hidden': 'true' }),
      ),
    ),
  );
  let order = null;
  const lines = rows.map((row) => ({
    row,
    line: el(
      'tr',
      {},
      columns.map((c) => el('td', { class: c.left ? 'left' : null }, (c.show || c.value)(row) ?? '')),
    ),
  }));
  function sort(place) {
    order = { place, up: order && order.place === place ? !order.up : true };
    heads.forEach((head, i) =>
      head.setAttribute('aria-sort', i === place ? (order.up ? 'ascending' : 'descending') : 'none'),
    );
    const key = ({ row }) => columns[place].value(row);
    const sorted = [...lines].sort((a, b) => compared(key(a), key(b)) * (order.up ? 1 : -1));
    body.replaceChildren(...sorted.map(({ line }) => line));
  }
  body.append(...lines.map(({ line }) => line));
  const table = el(
    'table',
    { class: 'plain' },
    el('caption', { class: 'hidden' }, label),
    groups,
    el('thead', {}, el('tr', {}, heads)),
    body,
  );
  return frame(label, table);
}

function compared(a, b) {
  if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0;
  return typeof a === 'number' && typeof b === 'number'
    ? a - b
    : String(a).localeCompare(String(b), 'en', { numeric: true });
}

function accuracy(cell) {
  if (!cell) return el('span', { class: 'none' }, '–');
  if (known(cell.perplexity))
    return [el('span', { class: 'value' }, fixed(cell.perplexity, 3)), el('span', { class: 'under' }, 'ppl')];
  if (known(cell.unread))
    return el('span', { class: 'none', title: `never read: ${cell.unread.join(', ')}` }, 'cannot name the candidates');
  if (!known(cell.acc)) return el('span', { class: 'none' }, '–');
  const under = cell.ci95 && el('span', { class: 'under' }, interval(cell.ci95));
  const other = known(cell.f1) && el('span', { class: 'under' }, `F1 ${percent(cell.f1)}`);
  const shares = [
    known(cell.donors) && `${cell.donors} other objects`,
    known(cell.acc_same_label) && `same label ${percent(cell.acc_same_label)}`,
    known(cell.acc_other_label) && `other label ${percent(cell.acc_other_label)}`,
  ].filter(Boolean);
  if (known(cell.pictures)) shares.push(`${fixed(cell.pictures, 1)} images`);
  const lines = shares.map((text) => el('span', { class: 'under' }, text));
  return [el('span', { class: 'value' }, percent(cell.acc)), under, other, ...lines];
}

// Of pairs of things, the share that is answered alike in both orders.
function consistent(cell) {
  if (!cell || !known(cell.consistent)) return null;
  const under = el('span', { class: 'under' }, interval(cell.consistent_ci95));
  return [el('span', { class: 'value' }, percent(cell.consistent)), under];
}

function gainCell(gain) {
  if (!gain) return el('span', { class: 'none' }, '–');
  return [
    el('span', { class: 'value gain' }, badge(gain.verdict), el('span', {}, signed(gain.delta))),
    el('span', { class: 'under' }, signedInterval(gain.ci95)),
  ];
}

// name, group, heading, content of a row
const GROUPS = ['', 'without images', 'controls', 'with images', 'same images, other rules'];
const MAIN = ({ k, stopping }) => [
  ['n', 0, 'items', (r) => (known(r.n) ? String(r.n) : null)],
  ['chance', 1, 'chance', (r) => (known(r.chance) ? percent(r.chance) : null)],
  ['majority', 1, 'majority', (r) => (known(r.majority) ? percent(r.majority) : null)],
  ['text', 1, 'text only', (r) => r.cells.text && accuracy(r.cells.text)],
  ['few-shot', 1, 'few-shot', (r) => r.cells['few-shot'] && accuracy(r.cells['few-shot'])],
  ['caption', 1, 'caption', (r) => r.cells.caption && accuracy(r.cells.caption)],
  ['blank', 2, 'blank', (r) => r.cells.blank && accuracy(r.cells.blank)],
  ['shuffled', 2, 'shuffled', (r) => r.cells.shuffled && accuracy(r.cells.shuffled)],
  ...stopping.map((auto) => [auto, 3, `k = ${auto}`, (r) => r.cells[auto] && accuracy(r.cells[auto])]),
  ['main', 3, `k = ${k}`, (r) => k !== 0 && accuracy(r.cells.main)],
  ['own', 3, 'its own image', (r) => r.cells.own && accuracy(r.cells.own)],
  ['balanced', 3, 'balanced', (r) => k !== 0 && known(r.balanced_acc) && percent(r.balanced_acc)],
  ['consistent', 3, 'both orders alike', (r) => k !== 0 && consistent(r.cells.main)],
  ['gain', 3, 'visual gain', (r) => r.gain && gainCell(r.gain)],
  ['vote', 4, 'vote', (r) => r.cells.vote && accuracy(r.cells.vote)],
  ['clip', 4, 'CLIP', (r) => r.cells.clip && accuracy(r.cells.clip)],
  ['zlavi', 4, 'Z-LaVI', (r) => r.cells.zlavi && accuracy(r.cells.zlavi)],
  ['best-image', 4, 'best image', (r) => r.cells['best-image'] && accuracy(r.cells['best-image'])],
];

// Divergence from people's distribution; below it the interval, and the rank correlation.
function divergence(cell) {
  if (!cell) return el('span', { class: 'none' }, '–');
  return [
    el('span', { class: 'value' }, fixed(cell.jsd, 3)),
    el('span', { class: 'under' }, cell.jsd_ci95.map((end) => fixed(end, 2)).join('–')),
    known(cell.kendall) && el('span', { class: 'under' }, `τ ${fixed(cell.kendall, 2)}`),
  ];
}

function agreementTable(data) {
  const cells = [
    ['text', 'text only'],
    ['caption', 'caption'],
    ['blank', 'blank'],
    ['shuffled', 'shuffled'],
    ['single', 'k = 1'],
    ['main', `k = ${data.k}`],
    ['vote', 'votes'],
  ].filter(([name]) => data.agreement.some((row) => row.cells[name]));
  const change = (name, title) => ({
    name: title,
    value: (r) => r.against[name]?.delta,
    show: (r) =>
      r.against[name] && [
        el(
          'span',
          { class: 'value gain' },
          badge(r.against[name].verdict),
          el('span', {}, fixed(r.against[name].delta, 2)),
        ),
        el('span', { class: 'under' }, `[${r.against[name].ci95.map((end) => fixed(end, 2)).join(', ')}]`),
      ],
  });
  const columns = [
    { name: 'task', left: true, value: (r) => r.task, show: (r) => [r.task, el('span', { class: 'under' }, r.subset)] },
    { name: 'group', left: true, value: (r) => r.group },
    { name: 'items', value: (r) => r.n, show: (r) => String(r.n) },
    { name: 'guess', value: (r) => r.uniform, show: (r) => fixed(r.uniform, 3) },
    ...cells.map(([name, title]) => ({
      name: title,
      value: (r) => r.cells[name]?.jsd,
      show: (r) => divergence(r.cells[name]),
    })),
    ...[
      ['text-only', 'less text only'],
      ['k=1', 'less k = 1'],
      ['shuffled', 'less shuffled'],
    ]
      .filter(([name]) => data.agreement.some((row) => row.against[name]))
      .map(([name, title]) => change(name, title)),
    {
      name: 'right',
      value: (r) => r.cells.main?.acc,
      show: (r) =>
        known(r.cells.main?.acc) && [
          el('span', { class: 'value' }, percent(r.cells.main.acc)),
          el('span', { class: 'under' }, `${interval(r.cells.main.acc_ci95)}, n = ${r.cells.main.n_majority}`),
        ],
    },
  ];
  return sortable('Beside what people say', columns, data.agreement);
}

function agreementConditions(data) {
  const columns = [
    ...['task', 'subset', 'group'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'k', value: (r) => r.k, show: (r) => String(r.k) },
    ...['mix', 'weights', 'control'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'n', value: (r) => r.n, show: (r) => String(r.n) },
    { name: 'divergence', value: (r) => r.jsd, show: (r) => el('b', {}, fixed(r.jsd, 3)) },
    { name: '95 %', value: (r) => r.jsd_ci95[0], show: (r) => r.jsd_ci95.map((end) => fixed(end, 2)).join('–') },
    { name: 'Kendall', value: (r) => r.kendall, show: (r) => fixed(r.kendall, 2) },
    { name: 'Spearman', value: (r) => r.spearman, show: (r) => fixed(r.spearman, 2) },
    { name: 'right', value: (r) => r.acc, show: (r) => known(r.acc) && percent(r.acc) },
  ];
  return folded(`Every rule: ${plural(data.agreements.length, 'row')}`, () =>
    sortable('Divergences of every rule', columns, data.agreements),
  );
}

function mainTable(data) {
  const columns = MAIN(data).filter(([, , , show]) => data.main.some(show));
  const spans = GROUPS.map((title, group) => [title, columns.filter((c) => c[1] === group).length]).filter(
    ([, count]) => count,
  );
  const starts = new Set(columns.filter((c, i) => i && columns[i - 1][1] !== c[1]).map(([name]) => name));
  const marks = (name) => `${name === 'main' ? 'main' : ''} ${starts.has(name) ? 'start' : ''}`.trim() || null;
  const head = el(
    'thead',
    {},
    el(
      'tr',
      { class: 'groups' },
      el('td'),
      spans.map(([title, span]) =>
        el(
          'th',
          { colspan: String(span), scope: 'colgroup', class: title ? 'start' : null },
          title && el('span', {}, title),
        ),
      ),
    ),
    el(
      'tr',
      {},
      el('th', { scope: 'col', class: 'left' }, 'task'),
      columns.map(([name, , title]) => el('th', { scope: 'col', class: marks(name) }, title)),
    ),
  );
  const body = data.main.map((row, i) => {
    const below = i > 0 && data.main[i - 1].task === row.task;
    const title = below
      ? el('span', { class: 'subset' }, row.subset)
      : [row.task, el('span', { class: 'under' }, naming(row))];
    return el(
      'tr',
      { class: below ? 'below' : null, 'data-task': row.task, 'data-subset': row.subset },
      el('th', { scope: 'row', class: 'left' }, title),
      columns.map(([name, , title, show]) => {
        const content = show(row) || null;
        return el(
          'td',
          { class: marks(name), 'data-column': name, 'data-title': title },
          content || el('span', { class: 'none' }, '–'),
        );
      }),
    );
  });
  return frame(
    'Main results',
    el('table', { class: 'results' }, el('caption', { class: 'hidden' }, 'Main results'), head, el('tbody', {}, body)),
  );
}

function naming(row) {
  const parts = [`${row.split} split`];
  if (row.metric !== 'accuracy') parts.push(row.metric);
  if (row.subset !== 'all') parts.push(`${row.subset} only`);
  if (row.majorities) parts.push('majorities');
  return parts.join(', ');
}

// The interval of a difference on a line from -100 to +100 points, zero in the middle.
function whisker(row) {
  const x = (share) => 50 + 48 * Math.max(-1, Math.min(1, share));
  const [low, high] = row.ci95;
  return svg(
    'svg',
    { class: `whisker ${row.verdict}`, viewBox: '0 0 100 12', width: '100', height: '12', 'aria-hidden': 'true' },
    svg('line', { x1: 50, x2: 50, y1: 0, y2: 12, class: 'axis' }),
    svg('line', { x1: x(low), x2: x(high), y1: 6, y2: 6, class: 'range' }),
    svg('circle', { cx: x(row.delta), cy: 6, r: 3.2, class: 'dot' }),
  );
}

const TESTS = [
  { name: 'finds', value: (r) => r.detectable, show: (r) => known(r.detectable) && percent(r.detectable) },
  { name: 'p', value: (r) => r.p, show: (r) => known(r.p) && pValue(r.p) },
  { name: 'p, Holm', value: (r) => r.p_holm, show: (r) => known(r.p_holm) && pValue(r.p_holm) },
  { name: 'p, McNemar', value: (r) => r.mcnemar_p, show: (r) => known(r.mcnemar_p) && pValue(r.mcnemar_p) },
];

function differences(data) {
  const columns = [
    { name: 'subset', left: true, value: (r) => r.subset },
    { name: 'comparison', left: true, value: (r) => r.b, show: (r) => `${r.a} against ${r.b}` },
    { name: 'difference', value: (r) => r.delta, show: (r) => el('b', {}, signed(r.delta)) },
    { name: '95 % interval', value: (r) => r.ci95[0], show: (r) => signedInterval(r.ci95) },
    { name: '', value: (r) => r.delta, show: whisker },
    ...TESTS,
    { name: 'verdict', left: true, value: (r) => r.verdict, show: (r) => badge(r.verdict) },
  ];
  const tasks = [...new Set(data.comparisons.map((row) => row.task))];
  return tasks.map((task, i) => {
    const rows = data.comparisons.filter((row) => row.task === task);
    const gain = rows.find((row) => row.b === 'text-only');
    const summary = [
      task,
      gain && el('span', { class: 'aside' }, `${signed(gain.delta)} against text only, ${gain.verdict}`),
    ];
    const details = folded(summary, () => sortable(`Differences of ${task}`, columns, rows));
    details.open = i === 0;
    return details;
  });
}

function conditions(data) {
  const extra = ['acc_norm', 'f1', 'perplexity', 'kept', 'ece'].filter((name) =>
    data.conditions.some((row) => known(row[name])),
  );
  const columns = [
    ...['task', 'subset'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'k', value: (r) => r.k, show: (r) => String(r.k) },
    ...['mix', 'weights', 'control'].map((name) => ({ name, left: true, value: (r) => r[name] })),
    { name: 'seed', value: (r) => r.seed, show: (r) => String(r.seed) },
    { name: 'n', value: (r) => r.n, show: (r) => String(r.n) },
    { name: 'accuracy', value: (r) => r.acc, show: (r) => known(r.acc) && el('b', {}, percent(r.acc)) },
    { name: '95 %', value: (r) => r.ci95 && r.ci95[0], show: (r) => r.ci95 && interval(r.ci95) },
    { name: 'balanced', value: (r) => r.balanced_acc, show: (r) => known(r.balanced_acc) && percent(r.balanced_acc) },
    ...extra.map((name) => ({
      name: name === 'ece' ? 'ECE' : name === 'f1' ? 'F1' : name.replace('_', ' '),
      value: (r) => r[name],
      show: (r) => known(r[name]) && (name === 'perplexity' ? fixed(r[name], 3) : percent(r[name])),
    })),
  ];
  return folded(`All ${plural(data.conditions.length, 'condition')}`, () =>
    sortable('All conditions', columns, data.conditions),
  );
}

function pairedTable(data) {
  const counts = [
    ['both', 'both right'],
    ['only_a', 'only A'],
    ['only_b', 'only B'],
    ['none', 'none'],
  ];
  const words = { better: 'A better', worse: 'A worse', tied: 'tied' };
  const columns = [
    {
      name: 'task',
      left: true,
      value: (r) => r.task,
      show: (r) => [r.task, r.subset === 'all' ? null : el('span', { class: 'subset' }, ` ${r.subset}`)],
    },
    { name: 'n', value: (r) => r.n, show: (r) => (known(r.n) ? String(r.n) : '') },
    { name: 'A', value: (r) => r.a.acc ?? r.a.perplexity, show: (r) => accuracy(r.a) },
    { name: 'B', value: (r) => r.b.acc ?? r.b.perplexity, show: (r) => accuracy(r.b) },
    ...counts.map(([name, title]) => ({
      name: title,
      value: (r) => r[name],
      show: (r) => (known(r[name]) ? String(r[name]) : ''),
    })),
    {
      name: 'A − B',
      value: (r) => r.delta,
      show: (r) =>
        known(r.delta) && [
          el('span', { class: 'value' }, signed(r.delta)),
          el('span', { class: 'under' }, signedInterval(r.ci95)),
        ],
    },
    { name: '', value: (r) => r.delta, show: (r) => known(r.delta) && whisker(r) },
    ...TESTS,
    {
      name: 'verdict',
      left: true,
      value: (r) => r.verdict,
      show: (r) => r.verdict && badge(r.verdict, words[r.verdict]),
    },
  ];
  return sortable('Run A against run B', columns, data.paired);
}
