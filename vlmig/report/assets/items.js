// The browser of items: task, filters and search, a list, and the opened item beside it or, on narrow screens, below it.
// It opens on the items that images changed, or on which two runs differ, where there are some.

const SURE = 800;
const FILTERS = {
  run: [
    ['all', 'all', () => true, 'every item'],
    [
      'changed',
      'changed by images',
      (w) => known(w.answer) && w.answer !== w.alone,
      'text only gives another answer, in some wording',
    ],
    [
      'sure',
      'confidently wrong',
      (w) => w.ok === false && Boolean(w.mixed) && Math.max(...w.mixed) >= SURE,
      'wrong with 80 % or more, in some wording',
    ],
    ['low', 'low CLIP similarity', (w, run) => run.low, 'the mean CLIP similarity is below the threshold'],
    ['right', 'right', (w) => w.ok === true, 'right in every wording'],
    ['wrong', 'wrong', (w) => w.ok === false, 'wrong in some wording'],
  ],
  comparison: [
    ['all', 'all', () => true, 'every item'],
    ['only-a', 'only A right', (a, _, b) => a.ok === true && b.ok === false, 'A is right and B wrong, in some wording'],
    ['only-b', 'only B right', (a, _, b) => a.ok === false && b.ok === true, 'B is right and A wrong, in some wording'],
    [
      'differs',
      'differs',
      (a, _, b) => known(a.answer) && a.answer !== b.answer,
      'the answers differ, in some wording',
    ],
  ],
};

class Browser {
  constructor() {
    this.filters = FILTERS[DATA.kind];
    this.state = { task: '', filter: 'all', text: '', covered: false, seed: DATA.seeds[0] ?? null };
    this.current = 0;
    this.opened = null;
    this.narrow = matchMedia('(max-width: 860px)');
    for (const item of DATA.items) {
      const texts = [
        item.id,
        item.about,
        item.picture,
        ...item.targets,
        ...item.wordings.map((w) => w.text),
        ...item.runs.flatMap((run) => [...run.prompts, ...run.wordings.flatMap((w) => [w.answer, w.alone])]),
      ];
      item.haystack = texts.filter(known).join('\n').toLowerCase();
    }
    const telling = DATA.kind === 'run' ? 'changed' : 'differs';
    if (DATA.items.some((item) => this.passes(item, telling))) this.state.filter = telling;
    this.build();
    this.narrow.addEventListener('change', () => this.place());
    document.addEventListener('keydown', (event) => this.key(event));
    this.refresh();
    if (!this.narrow.matches && this.shown.length) this.open(this.shown[0]);
  }

  build() {
    const tasks = [...new Set(DATA.items.map((item) => item.task))];
    const options = tasks.map((task) =>
      el('option', { value: task }, `${task} (${DATA.items.filter((item) => item.task === task).length})`),
    );
    const set = (part) => {
      Object.assign(this.state, part);
      this.refresh();
    };
    this.search = el('input', {
      type: 'search',
      id: 'search',
      placeholder: 'search   /',
      'aria-label': 'Search the items',
      oninput: (e) => set({ text: e.target.value.trim().toLowerCase() }),
    });
    this.chips = this.filters.map(([name, title, , tip]) =>
      el(
        'button',
        { type: 'button', class: 'chip', 'data-filter': name, title: tip, onclick: () => set({ filter: name }) },
        title,
        ' ',
        el('span', { class: 'count' }),
      ),
    );
    const covered = DATA.items.some((item) => item.covered !== null);
    this.status = el('p', { class: 'status', role: 'status', 'aria-live': 'polite' });
    this.list = el('ul', { class: 'list', 'aria-label': 'Items' });
    this.aside = el('div', { class: 'panel', id: 'panel' });
    this.bar = el(
      'div',
      { class: 'bar' },
      tasks.length > 1 &&
        el(
          'select',
          { id: 'task', 'aria-label': 'Task', onchange: (e) => set({ task: e.target.value }) },
          el('option', { value: '' }, `all tasks (${DATA.items.length})`),
          options,
        ),
      this.search,
      DATA.seeds.length > 1 &&
        el(
          'label',
          { class: 'pick' },
          el('span', {}, 'seed'),
          el(
            'select',
            { id: 'seed', onchange: (e) => set({ seed: Number(e.target.value) }) },
            DATA.seeds.map((seed) => el('option', { value: String(seed) }, String(seed))),
          ),
        ),
      covered &&
        el(
          'label',
          { class: 'check' },
          el('input', { type: 'checkbox', id: 'covered', onchange: (e) => set({ covered: e.target.checked }) }),
          'covered only',
        ),
    );
    this.root = el(
      'div',
      { class: 'browser' },
      this.bar,
      el('div', { class: 'chips', role: 'group', 'aria-label': 'Filters' }, this.chips),
      this.status,
      el('div', { class: 'panes' }, this.list, this.aside),
    );
  }

  runs(item) {
    if (DATA.kind !== 'run') return item.runs;
    return item.runs.filter((run) => run.seed === this.state.seed);
  }

  // The wordings that a filter is about.
  matching(item, filter) {
    const test = this.filters.find(([name]) => name === filter)[2];
    const [first, second] = this.runs(item);
    if (!first) return [];
    return item.wordings.map((_, i) => i).filter((i) => test(first.wordings[i], first, second && second.wordings[i]));
  }

  passes(item, filter) {
    const found = this.matching(item, filter).length;
    return filter === 'right' ? found === item.wordings.length : found > 0;
  }

  refresh() {
    const { task, text, covered, filter } = this.state;
    const base = DATA.items.filter(
      (item) =>
        (!task || item.task === task) &&
        (!covered || item.covered) &&
        (!text || item.haystack.includes(text)) &&
        this.runs(item).length,
    );
    for (const [i, [name]] of this.filters.entries()) {
      const count = base.filter((item) => this.passes(item, name)).length;
      this.chips[i].querySelector('.count').textContent = count;
      this.chips[i].setAttribute('aria-pressed', String(name === filter));
    }
    this.shown = base.filter((item) => this.passes(item, filter));
    this.status.textContent = `${this.shown.length.toLocaleString('en')} of ${plural(DATA.items.length, 'item')}`;
    this.current = Math.max(0, this.shown.indexOf(this.opened));
    this.rows = this.shown.map((item, i) => this.row(item, i));
    this.list.replaceChildren(...this.rows.map((button) => el('li', {}, button)));
    if (this.opened && !this.shown.includes(this.opened)) this.close();
    if (!this.opened && this.shown.length && !this.narrow.matches && this.ready) this.open(this.shown[0]);
    else if (this.opened) this.open(this.opened);
    this.ready = true;
  }

  row(item, i) {
    const runs = this.runs(item);
    const set = runs[0].sets[0] || [];
    const verdicts = runs.map((run) => {
      const marked = run.wordings.filter((w) => w.ok !== null);
      const right = marked.filter((w) => w.ok).length;
      if (!marked.length) return null;
      const kind = right === marked.length ? 'right' : right ? 'partly' : 'wrong';
      return el(
        'span',
        { class: `score ${kind}`, role: 'img', 'aria-label': `${right} of ${marked.length} wordings right` },
        marked.length > 1 ? `${right}/${marked.length}` : right ? '✓' : '✗',
      );
    });
    return el(
      'button',
      {
        type: 'button',
        class: 'item',
        tabindex: i === this.current ? '0' : '-1',
        'data-id': item.id,
        'data-task': item.task,
        'aria-controls': 'panel',
        'aria-expanded': String(item === this.opened),
        onclick: () => {
          this.current = i;
          this.toggle(item);
        },
        onfocus: () => this.mark(i),
      },
      set.length > 0 && picture(set[0], '', 36),
      el(
        'span',
        { class: 'words' },
        el('span', { class: 'name' }, item.kind === 'choice' ? item.picture || item.about : item.wordings[0].text),
        el('span', { class: 'under' }, [item.targets[0], item.task].filter(Boolean).join(' · ')),
      ),
      verdicts,
    );
  }

  mark(i) {
    this.rows.forEach((button, place) => button.setAttribute('tabindex', place === i ? '0' : '-1'));
    this.current = i;
  }

  toggle(item) {
    if (this.opened === item && this.narrow.matches) this.close();
    else this.open(item);
  }

  open(item) {
    const matching = this.matching(item, this.state.filter);
    if (this.opened !== item || !matching.includes(this.view.wording))
      this.view = { wording: matching[0] ?? 0, candidate: null, whole: false };
    this.opened = item;
    this.draw();
  }

  draw() {
    const change = (part) => {
      Object.assign(this.view, part);
      this.draw();
      const again = this.shownDetail.querySelector(`[data-pick="${Object.keys(part)[0]}"]`);
      (again || this.shownDetail.querySelector('.frame'))?.focus();
    };
    this.shownDetail = detail(this.opened, { ...this.view, runs: this.runs(this.opened) }, change);
    this.rows.forEach((button, i) => button.setAttribute('aria-expanded', String(this.shown[i] === this.opened)));
    this.place();
  }

  place() {
    this.aside.replaceChildren();
    for (const old of this.list.querySelectorAll('.inline')) old.remove();
    const i = this.shown.indexOf(this.opened);
    if (i < 0) return;
    if (this.narrow.matches) this.rows[i].after(el('div', { class: 'inline' }, this.shownDetail));
    else this.aside.append(this.shownDetail);
  }

  close() {
    this.opened = null;
    this.rows.forEach((button) => button.setAttribute('aria-expanded', 'false'));
    this.place();
  }

  move(step) {
    const next = Math.max(0, Math.min(this.rows.length - 1, this.current + step));
    const started = this.list.contains(document.activeElement) && document.activeElement.classList.contains('item');
    this.mark(started ? next : this.current);
    this.rows[this.current]?.focus();
    if (this.opened && !this.narrow.matches && started) this.open(this.shown[this.current]);
  }

  key(event) {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Escape' && this.opened && this.root.contains(target)) {
      if (target === this.search) return;
      this.rows[this.shown.indexOf(this.opened)]?.focus();
      if (this.narrow.matches) this.close();
      return;
    }
    if (target === this.search && event.key === 'ArrowDown') {
      event.preventDefault();
      this.move(0);
      return;
    }
    if (/^(input|select|textarea)$/i.test(target.tagName)) return;
    const inList = this.list.contains(target) && target.classList.contains('item');
    const step = {
      j: 1,
      k: -1,
      ...(inList ? { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e6, End: 1e6 } : {}),
    }[event.key];
    if (event.key === '/') {
      event.preventDefault();
      this.search.focus();
      this.search.select();
    } else if (step && this.rows.length) {
      event.preventDefault();
      this.move(step);
    }
  }
}
