// A few items of a task of distributions: people's shares beside those of text only and with images, as bars.

const EACH_GROUP = 2;
const NAMED = 100; // Thousandths from which a share is written beside its bar.

// The first items of each group of people's agreement, in every task; the most agreed on first.
function exampleItems(items) {
  const groups = new Map();
  for (const item of items) {
    if (!item.people || !item.names) continue;
    const key = `${item.task} ${item.group}`;
    const chosen = groups.get(key) || [];
    if (chosen.length < EACH_GROUP) groups.set(key, [...chosen, item]);
  }
  const order = ['single', 'multi', 'any'];
  return [...groups.values()].flat().sort((a, b) => order.indexOf(a.group) - order.indexOf(b.group));
}

const meanOf = (wordings, name) =>
  wordings[0][name].map((_, place) => wordings.reduce((sum, wording) => sum + wording[name][place], 0) / wordings.length);

// A color's name is its own color; other candidates have hues by their place.
const hueOf = (names, place) =>
  CSS.supports('color', names[place]) ? names[place] : `hsl(${Math.round((360 * place) / names.length)} 45% 60%)`;

function shareBar(title, names, shares) {
  const order = names.map((_, place) => place).sort((a, b) => shares[b] - shares[a]);
  const text = order
    .filter((place) => shares[place] >= NAMED)
    .map((place) => `${names[place]} ${percent(shares[place] / 1000, 0)}`)
    .join(', ');
  const pieces = names.map((_, place) =>
    el('span', { style: { width: `${shares[place] / 10}%`, background: hueOf(names, place) } }),
  );
  return el(
    'tr',
    {},
    el('th', { scope: 'row' }, title),
    el('td', { class: 'left' }, el('span', { class: 'shares', 'aria-hidden': 'true' }, pieces), text || 'each below 10'),
  );
}

function peopleExamples(data) {
  const examples = exampleItems(data.items).map((item) => {
    const { wordings } = item.runs[0];
    const rows = [['people', item.people], ['text only', meanOf(wordings, 'text')]];
    if (data.k !== 0) rows.push([`k = ${data.k}`, meanOf(wordings, 'mixed')]);
    const agree = item.group && el('span', { class: 'aside' }, `agreed on: ${item.group}`);
    return el(
      'figure',
      { class: 'people' },
      el('figcaption', {}, item.about, agree),
      el('table', { class: 'plain' }, el('tbody', {}, rows.map(([title, shares]) => shareBar(title, item.names, shares)))),
    );
  });
  if (!examples.length) return null;
  const guide = `The first ${EACH_GROUP} items of each group: shares of the candidates in percent, means over wordings.`;
  return [el('h3', {}, 'A few items'), el('p', { class: 'guide' }, guide), el('div', { class: 'columns' }, examples)];
}
