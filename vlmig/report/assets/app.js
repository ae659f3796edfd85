// The page of vlmig app: a question goes to the server, answers come back image by image, and each can be mixed
// otherwise at once, since the server keeps what every image predicts.

const DATA = { kind: 'answer', floor: null, k: 0, pictures: [] };
const MOST = 12;
const BYTES = 20e6;
const byId = (id) => document.getElementById(id);
const state = { given: [], panels: new Map(), running: null };

const say = (text) => (byId('status').textContent = text);
function complain(text) {
  byId('error').textContent = text || '';
  byId('error').hidden = !text;
}

const request = (path, fields, signal) =>
  fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(fields), signal });

// Lines of JSON, as they arrive.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value || '')).split('\n');
    rest = done ? '' : lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

// --- The question

async function ask() {
  state.running?.abort();
  state.running = new AbortController();
  complain('');
  say('asking …');
  state.panels.clear();
  document.body.classList.add('busy');
  const started = performance.now();
  const choices = byId('choices').value.split(',').map((text) => text.trim()).filter(Boolean);
  const fields = {
    question: byId('question').value,
    choices,
    k: byId('auto').checked ? 'auto' : Number(byId('k').value),
    seed: Number(byId('seed').value),
    images: state.given.map((image) => image.code),
  };
  const mine = state.running;
  try {
    const response = await request('/ask', fields, mine.signal);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error);
      if (event.loading) say(`loading ${event.loading} …`);
      else {
        show(event);
        say(`${event.model}: ${plural(event.data.k, 'image')} so far …`);
      }
    }
    say(`answered in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  } catch (error) {
    if (mine.signal.aborted) return;
    say('');
    complain(error.message);
  }
  if (mine === state.running) document.body.classList.remove('busy');
}

function show(event) {
  let panel = state.panels.get(event.model);
  if (!panel) {
    panel = new Panel(event.model);
    state.panels.set(event.model, panel);
    if (state.panels.size === 1) byId('answers').replaceChildren();
    byId('answers').append(panel.root);
    if (state.panels.size === 1 && matchMedia('(max-width: 860px)').matches) panel.root.scrollIntoView();
  }
  panel.arrived(event);
}

// --- An answer, and what it is mixed of

class Panel {
  constructor(model) {
    this.detail = el('div');
    this.controls = el('div', { class: 'mixing' });
    this.root = el('section', { class: 'panel-of', 'aria-label': `Answer of ${model}` }, el('h2', {}, model), this.detail, this.controls);
  }

  // Another image, or the first answer.
  arrived(event) {
    this.event = event;
    this.whole = event.data;
    this.places = event.data.items[0].runs[0].sets[0].map((place) => place);
    this.draw(event.data);
    this.build(event);
  }

  // Draw what was mixed of the chosen images; those left out stay where they were, paler.
  draw(data) {
    DATA.pictures = data.pictures;
    DATA.k = data.k;
    DATA.floor = data.floor;
    const [item] = data.items;
    const view = { wording: 0, candidate: null, whole: true, runs: item.runs };
    this.detail.replaceChildren(detail(item, view, () => {}), ignored(item));
  }

  build({ mixes, kinds, mixture }) {
    const count = this.places.length;
    this.strip = el('div', { class: 'strip choose', role: 'group', 'aria-label': 'Images to listen to' });
    this.mix = this.choice('mix', mixes, mixture.mix);
    this.weights = this.choice('weights', kinds, mixture.weights);
    this.strength = this.slider('strength', 0, 4, 0.05, mixture.strength);
    this.doubt = this.slider('doubt', 0, 3, 0.05, mixture.doubt);
    this.looked = el('input', { type: 'checkbox', name: 'why', onchange: () => this.again() });
    this.first = count > 1 ? this.slider('images', 0, count, 1, count) : null;
    this.first?.input.addEventListener('input', () => this.listen(this.first.value));
    this.controls.replaceChildren(
      el('h3', {}, 'Mix it otherwise'),
      count > 0 && el('p', { class: 'guide' }, 'Press an image to leave it out. Rule: how the predictions become one. Weights: how far each image is trusted. Strength: how much the images count against the text. Doubt: how far a text that is certain is left alone.'),
      this.strip,
      count > 0 && el('label', { class: 'check' }, this.looked, 'show where it looked'),
      el('div', { class: 'sliders' }, [this.mix, this.weights, this.first, this.strength, this.doubt].filter(Boolean).map((part) => part.root)),
      el(
        'div',
        { class: 'row' },
        this.button('as the model does', () => this.build(this.event) || this.again()),
        this.button('export as HTML', () => this.save('/page', 'answer.html', 'text/html')),
        this.button('export as Python', () => this.save('/code', 'answer.py', 'text/x-python')),
      ),
    );
    this.listen(count, false);
  }

  button(title, onclick) {
    return el('button', { type: 'button', class: 'chip', onclick }, title);
  }

  choice(name, values, chosen) {
    const input = el('select', { name, onchange: () => this.again() }, values.map((value) => el('option', { value, selected: value === chosen }, value)));
    return { root: el('label', {}, el('span', {}, name === 'mix' ? 'rule' : name), input), input };
  }

  slider(name, min, max, step, start) {
    const output = el('output', {}, String(start));
    const input = el('input', {
      type: 'range',
      name,
      min: String(min),
      max: String(Math.max(max, start)),
      step: String(step),
      value: String(start),
      oninput: () => {
        output.textContent = input.value;
        if (name !== 'images') this.again();
      },
    });
    input.value = String(start);
    const root = el('label', {}, el('span', {}, name), input, output);
    return { root, input, output, get value() { return Number(input.value); } };
  }

  // Listen to the first images only.
  listen(count, again = true) {
    this.chosen = new Set(this.places.slice(0, count));
    this.strip.replaceChildren(...this.places.map((place) => this.pick(place)));
    if (again) this.again();
  }

  pick(place) {
    const press = () => {
      if (!this.chosen.delete(place)) this.chosen.add(place);
      button.setAttribute('aria-pressed', String(this.chosen.has(place)));
      this.again();
    };
    DATA.pictures = this.whole.pictures;
    const button = el(
      'button',
      { type: 'button', 'aria-pressed': String(this.chosen.has(place)), 'aria-label': `listen to image ${place + 1}`, onclick: press },
      picture(place, '', 56),
    );
    return button;
  }

  settings() {
    const all = this.chosen.size === this.places.length;
    const { mixture } = this.event;
    const changed = (name, value) => (value === mixture[name] ? null : value);
    return {
      key: this.event.key,
      mix: changed('mix', this.mix.input.value),
      weights: changed('weights', this.weights.input.value),
      strength: changed('strength', this.strength.value),
      doubt: changed('doubt', this.doubt.value),
      places: all ? null : [...this.chosen].sort((a, b) => a - b),
    };
  }

  // Mix again; while one mixture is on its way only the latest wish is kept.
  async again() {
    const compared = ['evidence', 'contrast'].includes(this.mix.input.value);
    for (const part of [this.strength, this.doubt]) part.input.disabled = !compared;
    if (this.waiting) {
      this.wish = true;
      return;
    }
    this.waiting = true;
    do {
      this.wish = false;
      try {
        const path = this.looked.checked ? '/why' : '/mix';
        const reply = await (await request(path, this.settings())).json();
        complain(reply.error);
        if (!reply.error) this.draw(reply.data);
      } catch (error) {
        complain(`the app does not answer (${error.message}); is vlmig app still running?`);
      }
    } while (this.wish);
    this.waiting = false;
  }

  async save(path, name, type) {
    const reply = await (await request(path, this.settings())).json();
    complain(reply.error);
    if (reply.error) return;
    const url = URL.createObjectURL(new Blob([reply.text], { type }));
    el('a', { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

// --- Given images

async function give(files) {
  complain('');
  for (const file of files) {
    if (!file.type.startsWith('image/')) complain(`${file.name} is no image; expected PNG, JPEG or WebP`);
    else if (state.given.length >= MOST) complain(`at most ${MOST} images`);
    else if (state.given.reduce((sum, image) => sum + image.size, file.size) > BYTES)
      complain(`${file.name}: the images are more than ${BYTES / 1e6} MB together; give smaller ones`);
    else {
      const url = await new Promise((resolve) => {
        const reader = new FileReader();
        reader.addEventListener('load', () => resolve(reader.result));
        reader.readAsDataURL(file);
      });
      state.given.push({ name: file.name, size: file.size, url, code: url.slice(url.indexOf(',') + 1) });
    }
  }
  drawGiven();
}

function drawGiven() {
  byId('given').replaceChildren(
    ...state.given.map((image, place) => {
      const remove = () => {
        state.given.splice(place, 1);
        drawGiven();
      };
      const shown = el('img', { src: image.url, alt: image.name, class: 'picture', width: 56, height: 56 });
      return el('button', { type: 'button', title: `remove ${image.name}`, 'aria-label': `remove ${image.name}`, onclick: remove }, shown, el('span', { class: 'cross', 'aria-hidden': 'true' }, '×'));
    }),
  );
  byId('k').disabled = byId('auto').checked || state.given.length > 0;
}

// --- Start

async function models() {
  try {
    for await (const event of events(await fetch('/models'))) {
      if (event.error) complain(event.error);
      if (event.loading) say(`loading ${event.loading}; ask meanwhile`);
      if (event.ready) {
        say(`${event.ready} is ready`);
        byId('auto').disabled = !event.auto;
      }
    }
  } catch (error) {
    complain(`the app does not answer (${error.message}); is vlmig app still running?`);
  }
}

byId('form').addEventListener('submit', (event) => {
  event.preventDefault();
  ask();
});
byId('question').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey) return;
  event.preventDefault();
  ask();
});
byId('auto').addEventListener('change', drawGiven);
byId('files').addEventListener('change', (event) => give(event.target.files));
const drop = byId('drop');
for (const name of ['dragenter', 'dragover', 'dragleave', 'drop'])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', name === 'dragenter' || name === 'dragover');
    if (name === 'drop') give(event.dataTransfer.files);
  });
models();
