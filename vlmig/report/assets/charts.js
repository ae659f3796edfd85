// Charts as inline SVG: what images change, accuracy over their number, and reliability. Every chart says its numbers
// in words.

const BOX = { width: 300, height: 190, left: 34, right: 12, top: 12, bottom: 30 };
let charts = 0;

function canvas(title, words, height, ...children) {
  const id = `chart-${(charts += 1)}`;
  return svg(
    'svg',
    { class: 'chart', viewBox: `0 0 ${BOX.width} ${height}`, role: 'img', 'aria-labelledby': `${id}-t ${id}-d` },
    svg('title', { id: `${id}-t` }, title),
    svg('desc', { id: `${id}-d` }, words),
    ...children,
  );
}

const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

function axes(x, y, xTicks, yTicks, xTitle) {
  const floor = BOX.height - BOX.bottom;
  return [
    yTicks.map(([value, text]) => [
      svg('line', { class: 'grid', x1: BOX.left, x2: BOX.width - BOX.right, y1: y(value), y2: y(value) }),
      svg('text', { class: 'tick end', x: BOX.left - 6, y: y(value) + 3.5 }, text),
    ]),
    xTicks.map(([value, text]) => svg('text', { class: 'tick middle', x: x(value), y: floor + 13 }, text)),
    svg('text', { class: 'tick middle', x: (BOX.left + BOX.width - BOX.right) / 2, y: floor + 26 }, xTitle),
  ];
}

const path = (points) => points.map(([a, b], i) => `${i ? 'L' : 'M'}${a.toFixed(1)} ${b.toFixed(1)}`).join('');

const value = (p) => p.acc ?? p.perplexity ?? p.jsd;

// A line over k with an interval at each point.
function series(points, across, y, name, aside = 0) {
  const x = (k) => across(k) + aside; // beside the other line, so that intervals do not cover each other
  return svg(
    'g',
    { class: `series ${name}` },
    svg('path', { class: 'line', d: path(points.map((p) => [x(p.k), y(value(p))])) }),
    points.map(
      (p) => p.ci95 && svg('line', { class: 'bar', x1: x(p.k), x2: x(p.k), y1: y(p.ci95[0]), y2: y(p.ci95[1]) }),
    ),
    points.map((p) => svg('circle', { class: 'dot', cx: x(p.k), cy: y(value(p)), r: 3.4 })),
  );
}

function curve(chart) {
  const own = chart.curves.none.filter((p) => known(value(p)));
  if (own.length < 2) return null;
  const shuffled = chart.curves.shuffled;
  const places = own.map((p) => p.k);
  const x = scale(0, places.length - 1, BOX.left + 14, BOX.width - BOX.right - 14);
  const at = (k) => x(places.indexOf(k));
  const [y, ticks] = vertical(chart, [...own, ...shuffled]);
  const title = `${chart.task}: ${chart.metric} by number of images`;
  const words = own.map((p) =>
    known(p.acc)
      ? `k = ${p.k}: ${percent(p.acc)} %, interval ${interval(p.ci95)}`
      : `k = ${p.k}: ${value(p).toFixed(3)}`,
  );
  const chance = known(chart.chance) && [
    svg('line', { class: 'chance', x1: BOX.left, x2: BOX.width - BOX.right, y1: y(chart.chance), y2: y(chart.chance) }),
  ];
  const drawing = canvas(
    title,
    words.join('; '),
    BOX.height,
    axes(
      at,
      y,
      own.map((p) => [p.k, String(p.k)]),
      ticks,
      'images',
    ),
    chance,
    series(shuffled, at, y, 'shuffled', 4),
    series(own, at, y, 'pictures'),
  );
  const keys = [
    ['pictures', 'the object’s images'],
    shuffled.length && ['shuffled', 'other objects’'],
    known(chart.chance) && ['chance', 'chance'],
  ].filter(Boolean);
  return figure(`${chart.metric} by number of images`, drawing, keys.length > 1 ? keys : []);
}

function vertical(chart, points) {
  const [top, bottom] = [BOX.top, BOX.height - BOX.bottom];
  if (!['perplexity', 'divergence'].includes(chart.metric)) {
    return [scale(0, 1, bottom, top), [0, 0.25, 0.5, 0.75, 1].map((share) => [share, percent(share, 0)]), [0, 1]];
  }
  const values = points.flatMap((p) => [value(p), ...(p.ci95 || [])]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || 0.02 * high) * 0.2;
  const digits = high - low < 0.5 ? 2 : 1;
  return [
    scale(low - margin, high + margin, bottom, top),
    [low, (low + high) / 2, high].map((value) => [value, value.toFixed(digits)]),
    [low - margin, high + margin],
  ];
}

// Text alone, other objects' images, one image and all, on one axis.
const LINE = 21;
const LABELS = 66;

function dots(chart) {
  const found = chart.dots.filter((dot) => known(value(dot)));
  if (!found.length) return null;
  const floor = BOX.top + found.length * LINE;
  const [, ticks, [low, high]] = vertical(chart, found);
  const x = scale(low, high, LABELS + 8, BOX.width - 44);
  const name = (dot) =>
    dot.control === 'shuffled' ? 'shuffled' : dot.k === 0 ? 'text only' : dot.k === 1 ? '1 image' : /auto/.test(dot.k) ? `k = ${dot.k}` : `${dot.k} images`;
  const text = (dot) => (known(dot.acc) ? percent(dot.acc) : fixed(value(dot), known(dot.jsd) ? 3 : 2));
  const words = found.map((dot) => `${name(dot)} ${text(dot)}${known(dot.acc) ? ' %' : ''}`);
  const rows = found.map((dot, i) => {
    const y = BOX.top + (i + 0.5) * LINE;
    const kind = dot.control === 'shuffled' ? 'shuffled' : dot.k === 0 ? 'text' : 'pictures';
    return svg(
      'g',
      { class: `series ${kind}` },
      svg('text', { class: 'label end', x: LABELS, y: y + 3.5 }, name(dot)),
      dot.ci95 && svg('line', { class: 'bar', x1: x(dot.ci95[0]), x2: x(dot.ci95[1]), y1: y, y2: y }),
      svg('circle', { class: 'dot', cx: x(value(dot)), cy: y, r: 4 }),
      svg('text', { class: 'number end', x: BOX.width - 4, y: y + 3.5 }, text(dot)),
    );
  });
  const upright = (kind, share) => svg('line', { class: kind, x1: x(share), x2: x(share), y1: BOX.top, y2: floor });
  const drawing = canvas(
    `${chart.task}: ${chart.metric} with and without images`,
    words.join('; '),
    floor + 30,
    ticks.map(([share, name]) => [
      upright('grid', share),
      svg('text', { class: 'tick middle', x: x(share), y: floor + 13 }, name),
    ]),
    known(chart.chance) && upright('chance', chart.chance),
    svg('text', { class: 'tick middle', x: (x(low) + x(high)) / 2, y: floor + 26 }, unit(chart)),
    rows,
  );
  return drawing;
}

function unit(chart) {
  if (chart.metric === 'divergence') return 'nats from people’s answers (less is better)';
  if (chart.metric === 'perplexity') return 'perplexity (less is better)';
  return `${chart.metric}, %${known(chart.chance) ? '; dashed: chance' : ''}`;
}

// Lines over steps: [kind, name, [[step, value], ...]].
function trace(caption, format, all) {
  const lines = all.filter(([, , points]) => points.length);
  if (!lines.length) return null;
  const points = lines.flatMap(([, , own]) => own);
  const values = points.map(([, y]) => y).sort((a, b) => a - b);
  const last = Math.max(...points.map(([step]) => step));
  // A few wild first steps must not press the rest flat.
  const top = Math.min(values[values.length - 1], 1.5 * values[Math.floor(0.98 * (values.length - 1))]);
  const margin = (top - values[0] || top || 1) * 0.08;
  const [low, high] = [Math.max(0, values[0] - margin), top + margin];
  const x = scale(0, last, BOX.left + 6, BOX.width - BOX.right);
  const y = scale(low, high, BOX.height - BOX.bottom, BOX.top);
  const inside = ([step, value]) => [x(step), y(Math.min(value, high))];
  const ends = lines.map(([, name, own]) => `${name} ${format(own[0][1])} at step ${own[0][0]}, ${format(own[own.length - 1][1])} at step ${own[own.length - 1][0]}`);
  const ticks = [low, (low + high) / 2, high].map((value) => [value, format(value)]);
  const drawing = canvas(
    `${caption} by step`,
    ends.join('; '),
    BOX.height,
    axes(x, y, [0, Math.round(last / 2), last].map((step) => [step, String(step)]), ticks, 'step'),
    lines.map(([kind, , own]) =>
      svg(
        'g',
        { class: `series ${kind}` },
        svg('path', { class: 'line', d: path(own.map(inside)) }),
        own.length < 40 && own.map((point) => svg('circle', { class: 'dot', cx: inside(point)[0], cy: inside(point)[1], r: 2.6 })),
      ),
    ),
  );
  return figure(caption, drawing, lines.map(([kind, name]) => [kind, name]));
}

function dotGrid(data) {
  const drawn = data.charts.map((chart) => [chart, dots(chart)]).filter(([, drawing]) => drawing);
  return el(
    'div',
    { class: 'dots' },
    drawn.map(([chart, drawing]) => {
      const subset = chart.subset === 'all' ? null : el('span', { class: 'aside' }, `${chart.subset} items`);
      return el('article', { 'data-task': chart.task }, el('h3', {}, chart.task, subset), drawing);
    }),
  );
}

function reliability(chart) {
  if (!chart.reliability.length) return null;
  const x = scale(0, 1, BOX.left + 4, BOX.width - BOX.right - 4);
  const y = scale(0, 1, BOX.height - BOX.bottom, BOX.top);
  const kind = (plot) => (plot.k ? 'pictures' : 'text');
  const name = (plot) => (plot.k ? `k = ${plot.k}` : 'text only');
  const ece = (plot) => (known(plot.ece) ? `, ECE ${percent(plot.ece)}` : '');
  const words = chart.reliability.map(
    (plot) =>
      `${name(plot)}${ece(plot)}: ` +
      plot.bins
        .map((bin) => `confidence ${percent(bin.confidence, 0)} %, right ${percent(bin.acc, 0)} % of ${bin.n}`)
        .join(', '),
  );
  const shares = [0, 0.25, 0.5, 0.75, 1].map((share) => [share, percent(share, 0)]);
  const drawing = canvas(
    `${chart.task}: how often it is right at each confidence`,
    words.join('; '),
    BOX.height,
    axes(x, y, shares, shares, 'confidence, %'),
    svg('line', { class: 'chance', x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    chart.reliability.map((plot) => bins(plot, x, y, kind(plot))),
  );
  return figure(
    'right at each confidence, %',
    drawing,
    chart.reliability.map((plot) => [kind(plot), name(plot) + ece(plot)]),
  );
}

function bins(plot, x, y, kind) {
  const most = Math.max(...plot.bins.map((bin) => bin.n));
  return svg(
    'g',
    { class: `series calibration ${kind}` },
    svg('path', { class: 'line', d: path(plot.bins.map((bin) => [x(bin.confidence), y(bin.acc)])) }),
    plot.bins.map((bin) =>
      svg(
        'circle',
        { class: 'dot', cx: x(bin.confidence), cy: y(bin.acc), r: 2.2 + 4 * Math.sqrt(bin.n / most) },
        svg('title', {}, `confidence ${percent(bin.confidence, 0)} %, right ${percent(bin.acc, 0)} %, n = ${bin.n}`),
      ),
    ),
  );
}

function figure(caption, drawing, keys) {
  const legend = keys.length
    ? el(
        'span',
        { class: 'legend' },
        keys.map(([kind, text]) => el('span', { class: `key ${kind}` }, text)),
      )
    : null;
  return el('figure', {}, el('figcaption', {}, el('span', {}, caption), legend), drawing);
}

function chartGrid(data) {
  return el(
    'div',
    { class: 'charts' },
    data.charts.map((chart) => {
      const drawn = [curve(chart), reliability(chart)].filter(Boolean);
      if (!drawn.length) return null;
      const subset = chart.subset === 'all' ? null : el('span', { class: 'aside' }, `${chart.subset} items`);
      return el('article', {}, el('h3', {}, chart.task, subset), el('div', { class: 'pair' }, drawn));
    }),
  );
}
