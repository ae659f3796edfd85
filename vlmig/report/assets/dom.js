// Elements from text, never from markup: a task's text cannot become part of the page's code.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, own] of Object.entries(value)) node.style.setProperty(key, own);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

// Numbers for readers, rounded once, as numbers.py does for the terminal; real minus signs, and p-values that never
// say zero.
const MINUS = '\u2212';
const known = (value) => value !== null && value !== undefined;
const percent = (share, digits = 1) => (100 * share).toFixed(digits);
const signed = (share, digits = 1) => {
  const text = percent(Math.abs(share), digits);
  return Number(text) ? `${share < 0 ? MINUS : '+'}${text}` : text;
};
const fixed = (value, digits) => value.toFixed(digits).replace('-', MINUS);
const pValue = (p) => (p < 0.001 ? '<0.001' : p.toFixed(3));
const interval = ([low, high]) => `${percent(low, 0)}–${percent(high, 0)}`;
const signedInterval = ([low, high]) => `[${signed(low)}, ${signed(high)}]`;
const plural = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

const VERDICTS = { better: '▲', worse: '▼', tied: '=' };
const badge = (verdict, text = verdict) =>
  el(
    'span',
    { class: `verdict ${verdict}` },
    el('span', { 'aria-hidden': 'true' }, `${VERDICTS[verdict] || ''} `),
    text,
  );

function section(id, title, ...children) {
  return el('section', { id, 'aria-labelledby': `${id}-title` }, el('h2', { id: `${id}-title` }, title), ...children);
}

// Wide tables scroll inside their own frame, which the keyboard reaches; it says so where something is out of sight.
function frame(label, table) {
  const box = el('div', { class: 'frame', role: 'region', 'aria-label': label, tabindex: '0' }, table);
  const hint = el('p', { class: 'hint', hidden: true, 'aria-hidden': 'true' }, 'more to the right: scroll sideways →');
  const look = () => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle('more', rest > 2);
    if (rest > 2 && !box.scrollLeft) hint.hidden = false;
    else if (box.scrollWidth <= box.clientWidth + 2) hint.hidden = true;
  };
  box.addEventListener('scroll', look, { passive: true });
  new ResizeObserver(look).observe(box);
  return el('div', {}, hint, box);
}

// What is folded is only built when it is opened: a run may have thousands of conditions.
function folded(summary, build) {
  const details = el('details', {}, el('summary', {}, summary));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(build());
  });
  return details;
}
