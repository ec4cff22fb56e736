// Everything follows from the data and four choices: threshold, filters, order and marks.
const run = JSON.parse(document.getElementById("data").textContent);
const images = run.images;
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const CHUNK = 60; // cards that are drawn at once
const store = `marks:${run.base}`;
let marks = {};
try {
  marks = JSON.parse(localStorage.getItem(store)) ?? {};
} catch {} // a browser may keep nothing of local pages
let threshold = run.threshold;
let chosen = images; // after the filters, in order
let drawn = 0;
let viewed = null;

const make = (name, attributes = {}, ...children) => {
  const svg = ["svg", "path", "rect", "line", "circle", "text"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const flagged = (image) => image.s !== null && image.s > threshold;
const truth = (image) => marks[image.p] === undefined ? image.t : marks[image.p] === "bad";
const wrong = (image) => truth(image) !== null && truth(image) !== flagged(image);
const percent = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "undefined";

// Pictures: photograph, map, outlines and boxes lie upon each other.
const picture = (image, large) => {
  const frame = make("span", { class: "photo" });
  const name = `${image.n}, score ${image.s?.toFixed(3)}`;
  frame.append(image.f ? make("img", { src: image.f, alt: large ? name : "" }) : make("span", { class: "gone" }, "image file not found"));
  if (image.m) frame.append(make("img", { src: image.m, alt: "", class: "heat" }));
  const drawing = make("svg", { viewBox: `0 0 ${image.w} ${image.h}`, "aria-hidden": "true" });
  drawing.append(make("path", { d: image.g, class: "truth" }), make("path", { d: image.o }));
  if (large && image.z) {
    const [y, x] = [image.h / image.z[0], image.w / image.z[1]];
    for (const { box } of image.r)
      drawing.append(make("rect", { x: box[0] * x, y: box[1] * y, width: box[2] * x, height: box[3] * y }));
  }
  frame.append(drawing);
  if (large && image.f && image.u && run.originals) {
    // The photograph itself takes the place of the small one where it is still there.
    const original = new Image();
    original.onload = () => { frame.firstChild.src = original.src; };
    original.src = `${run.originals}/${image.u}`;
  }
  return frame;
};
const words = (image) => {
  const known = truth(image);
  const said = marks[image.p] ? `marked ${marks[image.p]}` : known === null ? "" : known ? "anomalous" : "good";
  const verdict = flagged(image) ? "flagged" : "passed";
  return [image.s === null ? "no score" : image.s.toFixed(3), [verdict, said, wrong(image) ? "wrong" : ""].filter(Boolean).join(", ")];
};
const dress = (card) => {
  const image = images[card.dataset.image];
  const [score, rest] = words(image);
  card.classList.toggle("flagged", flagged(image));
  card.lastChild.replaceChildren(make("b", {}, score), ` ${rest} `, make("i", {}, image.n));
};
const draw = () => {
  for (const image of chosen.slice(drawn, drawn + CHUNK)) {
    const card = make("button", { class: "card", type: "button", "data-image": image.i });
    card.append(picture(image, false), make("span", { class: "words" }));
    dress(card);
    at("gallery").append(card);
  }
  drawn = Math.min(drawn + CHUNK, chosen.length);
};

// More cards are drawn as the end of the gallery comes near.
const end = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  draw();
  if (drawn < chosen.length) watch(); // the end may still be in sight
}, { rootMargin: "800px" });
const watch = () => { end.unobserve(at("more")); end.observe(at("more")); };

const choose = () => {
  const [kind, name, word] = [at("kind").value, at("class").value, at("name").value.toLowerCase()];
  const kinds = {
    flagged, passed: (image) => !flagged(image), wrong,
    anomalous: (image) => truth(image) === true, good: (image) => truth(image) === false,
    marked: (image) => image.p in marks, unmarked: (image) => !(image.p in marks),
  };
  const order = at("order").value;
  const key = { high: (image) => -image.s, low: (image) => image.s, near: (image) => Math.abs(image.s - threshold) }[order];
  chosen = images.filter((image) =>
    (!name || image.c === name) && (!kind || kinds[kind](image)) && image.n.toLowerCase().includes(word));
  chosen.sort((a, b) => key(a) - key(b) || a.i - b.i);
  at("gallery").replaceChildren();
  drawn = 0;
  draw();
  watch();
  at("shown").textContent = `${chosen.length} of ${images.length} images`;
};

// Counts, and the histogram under which the threshold is moved: all images of the class.
const ofClass = () => images.filter((image) => !at("class").value || image.c === at("class").value);
const count = () => {
  const all = ofClass();
  const n = { hit: 0, miss: 0, alarm: 0, pass: 0 };
  let above = 0;
  for (const image of all) {
    if (flagged(image)) above += 1;
    if (truth(image) !== null) n[truth(image) ? (flagged(image) ? "hit" : "miss") : flagged(image) ? "alarm" : "pass"] += 1;
  }
  at("counts").textContent = `Threshold ${threshold.toFixed(3)}: ${above} of ${all.length} images flagged.`;
  const known = n.hit + n.miss + n.alarm + n.pass;
  at("confusion").hidden = !known;
  for (const cell of at("confusion").querySelectorAll("[data-of]")) cell.textContent = n[cell.dataset.of];
  at("rates").textContent = known
    ? `Precision ${percent(n.hit, n.hit + n.alarm)}, recall ${percent(n.hit, n.hit + n.miss)}, of ${known} images with a label or mark.`
    : "Precision and recall need labels: mark some images below.";
  for (const line of document.querySelectorAll(".threshold")) line.setAttribute("x1", 300 * threshold), line.setAttribute("x2", 300 * threshold);
  const rate = [n.alarm / (n.alarm + n.pass), n.hit / (n.hit + n.miss)];
  for (const dot of document.querySelectorAll(".here")) {
    dot.toggleAttribute("hidden", !rate.every(Number.isFinite));
    if (rate.every(Number.isFinite)) dot.setAttribute("cx", 100 * rate[0]), dot.setAttribute("cy", 100 - 100 * rate[1]);
  }
  at("use").hidden = !run.sensitivity;
  const value = (1 - threshold).toFixed(3);
  at("command").textContent =
    `--model.post_processor anomalib_clipad.CategoryPostProcessor --model.post_processor.image_sensitivity ${value}\n` +
    `clipad.post_processor.image_sensitivity = ${value}`;
};
const BINS = 50;
const histogram = () => {
  const bins = Array.from({ length: BINS }, () => [0, 0, 0]); // unknown, good, anomalous
  for (const image of ofClass())
    if (image.s !== null) bins[Math.min(BINS - 1, Math.floor(BINS * image.s))][truth(image) === null ? 0 : truth(image) ? 2 : 1] += 1;
  const top = Math.max(1, ...bins.map((bin) => bin[0] + bin[1] + bin[2]));
  const drawing = make("svg", { viewBox: "0 0 300 96", "aria-hidden": "true" });
  bins.forEach((bin, index) => {
    let base = 90;
    for (const [kind, colour] of [[1, 0], [0, 6], [2, 1]]) {
      const height = 88 * bin[kind] / top;
      base -= height;
      if (height) drawing.append(make("rect", { x: index * 6 + 0.5, y: base, width: 5, height, fill: `var(--series-${colour})` }));
    }
  });
  drawing.append(make("line", { x1: 0, x2: 300, y1: 90, y2: 90, stroke: "var(--rule)" }));
  drawing.append(make("line", { class: "threshold", y1: 0, y2: 96, stroke: "currentColor", "stroke-width": 1.5 }));
  const counts = [["good", 0, 1], ["anomalous", 1, 2], ["no label", 6, 0]].filter(([, , kind]) => bins.some((bin) => bin[kind]));
  const legend = make("p", { class: "small" });
  for (const [name, colour] of counts)
    legend.append(make("span", { style: `color: var(--series-${colour})`, "aria-hidden": "true" }, "■"), ` ${name} `);
  at("histogram").replaceChildren(drawing, ...(counts.length > 1 ? [legend] : []));
};

// Curves: that of images from the scores here, that of regions as it was measured.
const chart = (title, x, y, limit, here) => {
  const drawing = make("svg", { viewBox: "-4 -4 108 108", role: "img", "aria-label": title });
  drawing.append(make("path", { d: "M0 0V100H100", fill: "none", stroke: "var(--rule)" }));
  const points = x.map((value, index) => `${(100 * value / limit).toFixed(2)} ${(100 - 100 * y[index]).toFixed(2)}`);
  drawing.append(make("path", { d: `M${points.join("L")}`, fill: "none", stroke: "var(--series-0)", "stroke-width": 2 }));
  if (here) drawing.append(make("circle", { class: "here", r: 3.5, fill: "var(--series-1)" }));
  return make("figure", {}, make("figcaption", {}, title), drawing);
};
const curves = () => {
  const found = [];
  const known = ofClass().filter((image) => truth(image) !== null && image.s !== null).sort((a, b) => b.s - a.s);
  const bad = known.filter(truth).length;
  if (bad && bad < known.length) {
    const [x, y] = [[0], [0]];
    let [hits, alarms, area] = [0, 0, 0];
    known.forEach((image, index) => {
      if (truth(image)) hits += 1;
      else alarms += 1;
      if (index + 1 < known.length && known[index + 1].s === image.s) return; // ties are one point
      const [a, b] = [alarms / (known.length - bad), hits / bad];
      area += (a - x.at(-1)) * (b + y.at(-1)) / 2;
      x.push(a);
      y.push(b);
    });
    const mixed = new Set(known.map((image) => image.c)).size > 1 ? ", classes together" : "";
    found.push(chart(`Image ROC${mixed}: area ${(100 * area).toFixed(1)}\u00a0%`, x, y, 1, true));
  }
  const measured = Object.entries(run.pro).filter(([name]) => !at("class").value || name === at("class").value || name === "all");
  if (measured.length) {
    const x = measured[0][1][0];
    const y = x.map((_, index) => measured.reduce((sum, [, curve]) => sum + curve[1][index], 0) / measured.length);
    found.push(chart(`PRO: overlap of regions to a false positive rate of ${x.at(-1)}`, x, y, x.at(-1), false));
  }
  at("curves").replaceChildren(...found);
  at("curves").hidden = !found.length;
};

// Marks.
const CSV = (value) => /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
const tell = () => {
  const values = Object.values(marks);
  const bad = values.filter((mark) => mark === "bad").length;
  at("marked").textContent = `${values.length} marked: ${values.length - bad} good, ${bad} bad.`;
  at("save").disabled = !values.length;
};
const mark = (image, value) => {
  if (!image.p) return; // an image from memory has no path to calibrate by
  if (value === null || marks[image.p] === value) delete marks[image.p];
  else marks[image.p] = value;
  try {
    localStorage.setItem(store, JSON.stringify(marks));
  } catch {}
  const card = at("gallery").querySelector(`[data-image="${image.i}"]`);
  if (card) dress(card);
  refresh();
  look();
};
at("save").addEventListener("click", () => {
  const lines = images.filter((image) => image.p in marks).map((image) => [`${run.base}/${image.p}`, image.c, marks[image.p]].map(CSV).join(","));
  const file = new Blob([["path,class_name,label", ...lines, ""].join("\n")], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(file), download: "marked.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

// The viewer.
const look = () => {
  if (viewed === null || !at("viewer").open) return;
  const image = chosen[viewed];
  at("viewer-title").textContent = `${viewed + 1} of ${chosen.length}: ${image.n}`;
  const same = at("stage").firstChild?.dataset.image === `${image.i}`;
  if (!same) {
    const frame = picture(image, true);
    frame.dataset.image = image.i;
    at("stage").replaceChildren(frame);
  }
  const regions = image.r.map(({ box, area, peak }) => `${box[2]} × ${box[3]} px at ${box[0]}, ${box[1]} (area ${area}, peak ${peak.toFixed(3)})`);
  at("facts").textContent = [`${image.c}: score ${words(image).join(", ")}.`, regions.length ? `Regions: ${regions.slice(0, 5).join("; ")}${regions.length > 5 ? "; …" : ""}.` : ""].join(" ");
  for (const button of at("viewer").querySelectorAll("[data-do=good], [data-do=bad]")) {
    button.setAttribute("aria-pressed", marks[image.p] === button.dataset.do);
    button.disabled = !image.p;
  }
};
const turn = (by) => {
  viewed = Math.min(Math.max(viewed + by, 0), chosen.length - 1);
  look();
};
const actions = {
  previous: () => turn(-1), next: () => turn(1), close: () => at("viewer").close(),
  good: () => mark(chosen[viewed], "good"), bad: () => mark(chosen[viewed], "bad"), neither: () => mark(chosen[viewed], null),
};
const KEYS = { ArrowLeft: "previous", ArrowRight: "next", g: "good", b: "bad", u: "neither" };
at("viewer").addEventListener("click", ({ target }) => actions[target.closest("[data-do]")?.dataset.do]?.());
at("viewer").addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  actions[KEYS[event.key]]();
});
at("viewer").addEventListener("close", () => {
  const image = chosen[viewed];
  viewed = null;
  at("gallery").querySelector(`[data-image="${image.i}"]`)?.focus();
});
at("gallery").addEventListener("click", ({ target }) => {
  const card = target.closest(".card");
  if (!card) return;
  viewed = chosen.indexOf(images[card.dataset.image]);
  at("viewer").showModal();
  look();
});

const refresh = () => { histogram(); curves(); count(); tell(); };
at("threshold").value = threshold;
at("threshold").addEventListener("input", () => {
  threshold = Number(at("threshold").value);
  count();
  for (const card of at("gallery").children) dress(card);
});
at("threshold").addEventListener("change", () => {
  if (at("kind").value || at("order").value === "near") choose();
});
at("class").addEventListener("change", refresh);
for (const id of ["class", "kind", "order"]) at(id).addEventListener("change", choose);
at("name").addEventListener("input", choose);
const fade = () => document.documentElement.style.setProperty("--fade", at("fade").value);
at("fade").addEventListener("input", fade);
fade(); // a browser may restore the place of the last visit
refresh();
choose();
