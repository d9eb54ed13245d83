// SPDX-License-Identifier: Apache-2.0
// The page of `weft report`: charts over the JSON in #data. Texts only ever become textContent.
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
for (const run of data.runs)
  for (const s of Object.values(run).filter(v => v.x)) {
    s.end ??= s.x; s.low ??= s.y; s.high ??= s.y; s.bad ??= [];
  }
const byId = id => document.getElementById(id);
const colour = i => 'var(--c' + i % 8 + ')';
const state = {log: false, smooth: 0, hidden: new Set(), zoom: null};
const make = (name, attributes, parent) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (parent) parent.appendChild(e);
  return e;
};
const show = v => v === null || v === undefined ? '-' : v === 0 ? '0' :
  Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? (+v.toPrecision(4)).toExponential() :
  String(+v.toPrecision(5));

/* Exponential mean, with the start's bias removed; gaps are left as gaps. */
function smoothed(y) {
  let sum = 0, weight = 0;
  return y.map(v => {
    if (v === null) return null;
    sum = state.smooth * sum + (1 - state.smooth) * v;
    weight = state.smooth * weight + 1 - state.smooth;
    return sum / weight;
  });
}
function ticks(low, high, count) {
  const rough = (high - low) / count, power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step)
    out.push(Math.abs(t) < step * 1e-6 ? 0 : t);
  return out;
}
function logTicks(low, high) {
  const out = [], wide = high / low > 100;
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const m of wide ? [1] : [1, 2, 5]) {
      const t = m * Math.pow(10, p);
      if (t >= low && t <= high) out.push(t);
    }
  return out.length > 2 ? out : ticks(low, high, 5);
}
function nearest(s, x) {
  let a = 0, b = s.x.length - 1;
  while (a < b) {
    const m = (a + b) >> 1;
    if (s.end[m] < x) a = m + 1; else b = m;
  }
  return a > 0 && x - s.end[a - 1] < s.x[a] - x ? a - 1 : a;
}

const left = 58, right = 22, top_ = 10, bottom = 24, height = 250;
function draw(figure) {
  const svg = figure.querySelector('svg');
  const width = Math.max(figure.clientWidth - 20, 200);
  const lines = figure.lines.filter(l => !state.hidden.has(l.run) && l.s.x.length);
  svg.textContent = '';
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  figure.view = null;
  const inside = l => l.s.x.map(
    (x, i) => !state.zoom || (l.s.end[i] >= state.zoom[0] && x <= state.zoom[1]));
  const ok = v => v !== null && (!state.log || v > 0);
  let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
  for (const l of lines) {
    l.in = inside(l);
    l.y = l.dash ? l.s.y : smoothed(l.s.y); // validation losses are few
    l.s.x.forEach((x, i) => {
      if (!l.in[i]) return;
      x0 = Math.min(x0, x); x1 = Math.max(x1, l.s.end[i]);
      const pair = state.smooth > 0 ? [l.y[i]] : [l.s.low[i], l.s.high[i]];
      for (const v of pair.filter(ok)) { y0 = Math.min(y0, v); y1 = Math.max(y1, v); }
    });
  }
  if (state.zoom) [x0, x1] = state.zoom;
  if (!(y0 <= y1)) {
    make('text', {x: width / 2, y: height / 2, 'text-anchor': 'middle'}, svg).textContent =
      'nothing to show';
    return;
  }
  if (x0 === x1) x1 = x0 + 1;
  if (y0 === y1) { y0 -= Math.abs(y0) * .05 || 1; y1 += Math.abs(y1) * .05 || 1; }
  const f = state.log ? Math.log : v => v;
  if (state.log && y0 <= 0) y0 = y1 / 1e3;
  const X = x => left + (x - x0) / (x1 - x0) * (width - left - right);
  const Y = v => top_ + (f(y1) - f(v)) / (f(y1) - f(y0)) * (height - top_ - bottom);
  for (const t of state.log ? logTicks(y0, y1) : ticks(y0, y1, 5)) {
    make('line', {class: 'grid', x1: left, x2: width - right, y1: Y(t), y2: Y(t)}, svg);
    make('text', {x: left - 6, y: Y(t) + 4, 'text-anchor': 'end'}, svg).textContent = show(t);
  }
  for (const t of ticks(x0, x1, Math.min(8, width / 90)).filter(Number.isInteger))
    make('text', {x: Math.min(X(t), width - 26), y: height - 6, 'text-anchor': 'middle'}, svg)
      .textContent = t.toLocaleString('en');
  const clip = 'clip' + figure.id;
  make('rect', {x: left, y: 0, width: width - left - right, height: height - bottom + 2},
    make('clipPath', {id: clip}, make('defs', {}, svg)));
  const area = make('g', {'clip-path': `url(#${clip})`}, svg);
  for (const l of lines) {
    const middle = i => (l.s.x[i] + l.s.end[i]) / 2;
    const path = y => {
      let d = '', pen = 'M';
      y.forEach((v, i) => {
        if (ok(v)) d += pen + X(middle(i)).toFixed(1) + ',' + Y(v).toFixed(1);
        pen = ok(v) ? 'L' : 'M';
      });
      return d;
    };
    const stroke = colour(l.run);
    const line = (y, more) => make('path', {d: path(y), fill: 'none', stroke, ...more}, area);
    if (l.s.thin) {
      const i = l.s.x.map((_, k) => k).filter(k => ok(l.s.low[k]) && ok(l.s.high[k]));
      const corner = (k, y) => X(middle(k)).toFixed(1) + ',' + Y(y[k]).toFixed(1);
      const over = i.map(k => corner(k, l.s.high)), under = i.map(k => corner(k, l.s.low));
      const points = over.concat(under.reverse()).join(' ');
      make('polygon', {points, fill: stroke, opacity: .18}, area);
    }
    if (state.smooth > 0 && !l.dash) line(l.s.y, {opacity: .25});
    line(l.y, l.dash ? {'stroke-width': 2, 'stroke-dasharray': '5 4'} : {'stroke-width': 1.5});
    l.s.bad.forEach((n, i) => {
      const d = `M${X(l.s.x[i])},${height - bottom}l-4,-8h8z`;
      if (n) make('path', {d, fill: 'var(--c4)'}, area);
    });
    if (l.dash && l.s.x.length < 80)
      l.s.x.forEach((x, i) => {
        if (ok(l.y[i])) make('circle', {cx: X(x), cy: Y(l.y[i]), r: 2.5, fill: stroke}, area);
      });
  }
  const cursor = make('line',
    {class: 'grid', y1: top_, y2: height - bottom, visibility: 'hidden'}, svg);
  const select = make('rect', {y: top_, height: height - top_ - bottom, fill: 'var(--c0)',
    opacity: .15, visibility: 'hidden'}, svg);
  figure.view = {X, x0, x1, width, lines, cursor, select};
}
function stepAt(figure, event) {
  const v = figure.view, box = figure.querySelector('svg').getBoundingClientRect();
  const x = (event.clientX - box.left) * v.width / box.width;
  return v.x0 + Math.min(1, Math.max(0, (x - left) / (v.width - left - right))) * (v.x1 - v.x0);
}
function hover(figure, event) {
  const v = figure.view, tip = figure.querySelector('.tip');
  if (!v || !v.lines.length) return;
  const at = stepAt(figure, event);
  if (figure.from !== undefined) {
    const a = v.X(Math.min(at, figure.from)), b = v.X(Math.max(at, figure.from));
    for (const [k, x] of [['x', a], ['width', b - a], ['visibility', 'visible']])
      v.select.setAttribute(k, x);
  }
  v.cursor.setAttribute('visibility', 'visible');
  v.cursor.setAttribute('x1', v.X(at)); v.cursor.setAttribute('x2', v.X(at));
  tip.textContent = '';
  const near = (v.x1 - v.x0) / 50; // a run that ended before says nothing here
  for (const l of v.lines) {
    const i = nearest(l.s, at);
    if (at > l.s.end[l.s.end.length - 1] + near || at < l.s.x[0] - near) continue;
    const row = document.createElement('div'), key = document.createElement('span');
    key.className = 'key'; key.style.background = colour(l.run);
    const range = l.s.end[i] > l.s.x[i], steps = range ? `${l.s.x[i]}-${l.s.end[i]}` : l.s.x[i];
    const name = data.runs[l.run].name + (l.label ? ' ' + l.label : '');
    let words = `${name}, step ${steps}: ${show(l.s.y[i])}`;
    if (range) words += ` (${show(l.s.low[i])} to ${show(l.s.high[i])})`;
    if (state.smooth > 0 && !l.dash) words += `, smooth ${show(l.y[i])}`;
    if (l.s.bad[i]) words += `, not finite ${l.s.bad[i]}x`;
    row.append(key, words);
    tip.append(row);
  }
  tip.style.display = 'block';
  const x = event.clientX - figure.getBoundingClientRect().left;
  tip.style.top = '2.2rem';
  const beside = x < figure.clientWidth / 2 ? x + 14 : x - tip.offsetWidth - 14;
  tip.style.left = Math.max(0, beside) + 'px';
}
function leave(figure) {
  figure.querySelector('.tip').style.display = 'none';
  if (figure.view) figure.view.cursor.setAttribute('visibility', 'hidden');
}
const figures = [];
const all = () => figures.forEach(draw);
function chart(id, title, wide, lines) {
  if (!lines.some(l => l.s.x.length)) return;
  const figure = document.createElement('figure');
  const caption = document.createElement('figcaption'), tip = document.createElement('div');
  figure.id = id; figure.lines = lines; figure.className = wide ? 'wide' : '';
  caption.textContent = title; tip.className = 'tip';
  figure.append(caption, make('svg', {role: 'img', 'aria-label': title}), tip);
  byId('charts').append(figure);
  figures.push(figure);
  const svg = figure.querySelector('svg');
  svg.addEventListener('pointermove', e => hover(figure, e));
  svg.addEventListener('pointerleave', () => leave(figure));
  svg.addEventListener('pointerdown', e => {
    if (!figure.view) return;
    figure.from = stepAt(figure, e);
    svg.setPointerCapture(e.pointerId);
  });
  svg.addEventListener('pointerup', e => {
    const from = figure.from;
    figure.from = undefined;
    if (from === undefined || !figure.view) return;
    const to = stepAt(figure, e), a = Math.min(from, to), b = Math.max(from, to);
    if (figure.view.X(b) - figure.view.X(a) > 6) {
      state.zoom = [a, b];
      byId('reset').hidden = false;
      all();
    } else {
      figure.view.select.setAttribute('visibility', 'hidden');
    }
  });
}
const each = key => data.runs.map((r, i) => ({run: i, s: r[key], label: '', dash: false}));
const validation = data.runs.map(
  (r, i) => ({run: i, s: r.val, label: 'validation', dash: true}));
chart('loss', 'loss (dashed: validation)', true, each('loss').concat(validation));
chart('lr', 'learning rate', false, each('lr'));
chart('norm', 'gradient norm, before clipping', false, each('norm'));
chart('speed', 'tokens per second', false, each('speed'));
chart('ceiling', '% of the ceiling', false, each('ceiling'));
byId('log').addEventListener('change', e => { state.log = e.target.checked; all(); });
byId('smooth').addEventListener('input', e => {
  state.smooth = +e.target.value;
  byId('smoothness').textContent = state.smooth;
  all();
});
byId('reset').addEventListener('click', e => {
  state.zoom = null;
  e.target.hidden = true;
  all();
});
for (const box of document.querySelectorAll('[data-run]'))
  box.addEventListener('change', () => {
    state.hidden[box.checked ? 'delete' : 'add'](+box.dataset.run);
    all();
  });
const only = byId('only');
if (only)
  only.addEventListener('change', () => byId('options').classList.toggle('only', only.checked));
addEventListener('resize', all);
all();
