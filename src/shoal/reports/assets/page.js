// Draws the charts of a report. What they show is in the element "report-data" (_charts.py describes it); all else on the
// page is there without this script.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const charts = [];

  // ---- texts and colours ----

  const unitOf = value => [["s", 1], ["ms", 1e-3], ["µs", 1e-6]].find(([, size]) => Math.abs(value) >= size) || ["µs", 1e-6];

  function seconds(value, digits = 4) {
    if (value === 0) return "0 s";
    const [unit, size] = unitOf(value);
    return `${+(value / size).toPrecision(digits)} ${unit}`;
  }

  // The labels of an axis of time, whose marks are `step` seconds apart: 1:05 min, or with as many digits as differ.
  function timeLabels(marks, step) {
    const largest = Math.max(...marks.map(Math.abs));
    const [unit, part] = largest >= 7200 ? ["h", 60] : largest >= 120 ? ["min", 1] : unitOf(largest);
    if (part >= 1 && unit !== "s" && step >= part) {
      const whole = mark => Math.floor(Math.abs(mark) / part / 60), rest = mark => Math.round(Math.abs(mark) / part) % 60;
      return marks.map(mark => `${mark < 0 ? "-" : ""}${whole(mark)}:${String(rest(mark)).padStart(2, "0")} ${unit}`);
    }
    const [name, size] = unitOf(largest), digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-6));
    return marks.map(mark => `${(mark / size).toFixed(digits)} ${name}`);
  }

  const color = name => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Lines over a colour, so that the kinds differ without it. A line goes from (x, y) to (x, y) in a tile of 8 pixels.
  const LINES = {
    decode: [[0, 0, 8, 8], [-4, 4, 4, 12], [4, -4, 12, 4]],
    encode: [[0, 8, 8, 0], [-4, 4, 4, -4], [4, 12, 12, 4]],
    start: [[0, 4, 8, 4]],
  };

  function pattern(context, kind) {
    const lines = LINES[kind];
    if (!lines) return color(kind);
    const scale = uPlot.pxRatio, tile = document.createElement("canvas");
    tile.width = tile.height = Math.round(8 * scale);
    const brush = tile.getContext("2d");
    brush.fillStyle = color(kind);
    brush.fillRect(0, 0, tile.width, tile.height);
    brush.scale(tile.width / 8, tile.height / 8);
    brush.strokeStyle = color("line-of-pattern");
    brush.lineWidth = 1.5;
    for (const [x0, y0, x1, y1] of lines) {
      brush.beginPath();
      brush.moveTo(x0, y0);
      brush.lineTo(x1, y1);
      brush.stroke();
    }
    return context.createPattern(tile, "repeat");
  }

  // ---- charts ----

  function axis(options) {
    return {
      stroke: () => color("text"),
      grid: { stroke: () => color("grid"), width: 1 },
      ticks: { stroke: () => color("grid"), width: 1 },
      font: `12px ${getComputedStyle(document.body).fontFamily}`,
      ...options,
    };
  }

  // The steps between marks: 1, 2, 5, 10, ... up to 10 s, then those of clocks.
  const STEPS = [-8, -7, -6, -5, -4, -3, -2, -1, 0].flatMap(power => [1, 2, 5].map(digit => +`${digit}e${power}`));
  STEPS.push(10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800, 2592000);
  const timeAxis = () => axis({
    values: (u, splits, index, space, step) => timeLabels(splits, step),
    incrs: STEPS,
    space: 80,
    size: 32,
  });

  // Creates a chart in an element, as wide as the element.
  function chart(id, height, options, columns) {
    const place = document.getElementById(id);
    place.replaceChildren();
    const fixed = { width: place.clientWidth, height, legend: { show: false }, padding: [8, 20, 0, 0] };
    charts.push(new uPlot({ ...fixed, ...options }, columns, place));
    return charts[charts.length - 1];
  }

  // ---- the timeline ----

  // Lines of titles and rows of workers, one below the other. A title has room for its text; the more workers, the
  // lower their rows.
  const rows = data.lanes.flatMap(lane => [lane, ...lane.rows.map(row => ({ ...row, titles: lane.titles, lane }))]);
  const rowHeight = Math.max(3, Math.min(22, Math.floor(2400 / rows.length)));
  let height = 0;
  for (const row of rows) {
    row.top = height;
    row.bottom = height += row.lane ? rowHeight : 18;
    if (!row.lane) continue;
    let at = 0;
    row.start = [];
    row.end = [];
    row.gap.forEach((gap, i) => {
      row.start.push(data.start + (at += gap) * data.tick);
      row.end.push(data.start + (at += row.length[i]) * data.tick);
    });
  }

  // The first slice of a row that ends after `time`.
  function firstAfter(row, time) {
    let low = 0, high = row.end.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (row.end[middle] <= time) low = middle + 1; else high = middle;
    }
    return low;
  }

  function drawTimeline(u) {
    const c = u.ctx;
    const fills = Object.fromEntries(data.kinds.map(kind => [kind, pattern(c, kind)]));
    c.save();
    c.beginPath();
    c.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    c.clip();
    for (const row of rows) {
      const top = u.valToPos(row.top, "y", true), bottom = u.valToPos(row.bottom, "y", true);
      if (row.lane) drawRow(u, row, fills, top, bottom); else drawTitles(u, row.titles, top, bottom);
    }
    c.restore();
  }

  function drawTitles(u, titles, top, bottom) {
    const c = u.ctx, ratio = uPlot.pxRatio;
    c.fillStyle = color("text");
    c.font = `${12 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
    c.textAlign = "left";
    c.textBaseline = "middle";
    titles.forEach(([begin, until, text], i) => {
      // A text may go on to where the next one begins.
      const left = Math.max(u.valToPos(begin, "x", true), u.bbox.left);
      const right = i + 1 < titles.length ? u.valToPos(titles[i + 1][0], "x", true) : u.bbox.left + u.bbox.width;
      if (right - left < 24 * ratio || (titles.length > 1 && u.valToPos(until, "x", true) < left)) return;
      c.save();
      c.beginPath();
      c.rect(left, top, right - left - 6 * ratio, bottom - top);
      c.clip();
      c.fillText(text, left + 2 * ratio, (top + bottom) / 2);
      c.restore();
    });
  }

  function drawRow(u, row, fills, top, bottom) {
    const c = u.ctx, { min, max } = u.scales.x, ratio = uPlot.pxRatio;
    const gap = bottom - top > 6 * ratio ? ratio : 0, full = bottom - top - 2 * gap;
    c.fillStyle = color("idle");
    for (const [begin, until] of row.there) {
      const left = u.valToPos(begin, "x", true);
      c.fillRect(left, top + gap, u.valToPos(until, "x", true) - left, full);
    }
    const edge = color("page");
    for (let i = firstAfter(row, min); i < row.end.length && row.start[i] < max; i++) {
      const x = u.valToPos(row.start[i], "x", true), width = u.valToPos(row.end[i], "x", true) - x;
      const height = row.share ? full * row.share[i] / 100 : full;
      c.fillStyle = fills[data.kinds[row.kind[i]]];
      c.fillRect(x, top + gap + full - height, Math.max(width, ratio / 2), height);
      if (width > 4 * ratio) {  // so that neighbours can be told apart
        c.fillStyle = edge;
        c.fillRect(x + width - ratio, top + gap, ratio, full);
      }
    }
    for (const [time] of row.events) {
      const x = u.valToPos(time, "x", true), half = 5 * ratio;
      c.fillStyle = color("failed");
      c.strokeStyle = edge;
      c.lineWidth = ratio;
      c.beginPath();
      c.moveTo(x - half, top);
      c.lineTo(x + half, top);
      c.lineTo(x, top + 2 * half);
      c.closePath();
      c.fill();
      c.stroke();
    }
  }

  // What is below the pointer, in words.
  function below(u, row, time) {
    const title = row.titles.find(([begin, until]) => begin <= time && time <= until);
    if (!title) return [seconds(time, 7), "no run"];
    if (!row.lane) return [title[2]];
    const where = [seconds(time, 7), `worker ${row.worker} of run ${title[2].split(" ", 1)[0]}`];
    const near = 6 * (u.scales.x.max - u.scales.x.min) / (u.bbox.width / uPlot.pxRatio);
    const event = row.events.find(([at]) => Math.abs(at - time) < near);
    if (event) return [seconds(event[0], 7), where[1], event[1], ...(event[2] === null ? [] : [`call ${event[2]}`])];
    const i = firstAfter(row, time);
    if (i >= row.end.length || row.start[i] > time) return [...where, "waits"];
    const number = row.calls[i], calls = [];
    if (number) calls.push(number > 1 ? `${number.toLocaleString("en")} calls from ${row.first[i]}` : `call ${row.first[i]}`);
    return [...where, data.names[data.kinds[row.kind[i]]], ...calls, seconds(row.end[i] - row.start[i])];
  }

  function describe(u) {
    const { left, top } = u.cursor;
    if (left === null || left < 0) return;
    const y = u.posToVal(top, "y"), row = rows.find(one => one.top <= y && y < one.bottom);
    document.getElementById("timeline-says").textContent = row ? below(u, row, u.posToVal(left, "x")).join(", ") : "";
  }

  function zoom(min, max) {
    for (const u of [timeline, utilisation]) {
      if (u.scales.x.min !== min || u.scales.x.max !== max) u.setScale("x", { min, max });
    }
  }

  // Both charts over time show the same stretch.
  const follow = u => { if (timeline && utilisation) zoom(u.scales.x.min, u.scales.x.max); };

  const over = { x: { time: false, range: (u, min, max) => [min, max] } };
  const narrow = () => root.clientWidth < 600;
  // The same for both charts, so that their times stand below each other.
  const leftOfTimes = () => narrow() ? 44 : 90;

  function makeTimeline() {
    const every = Math.ceil(14 / rowHeight), tall = height > 600;
    const named = rows.filter(row => row.lane && row.worker % every === 0);
    return chart("timeline", height + 44 + (tall ? 32 : 0), {
      scales: { ...over, y: { dir: -1, range: [0, height] } },
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [timeAxis(), ...(tall ? [{ ...timeAxis(), scale: "x", side: 0, grid: { show: false } }] : []), axis({
        scale: "y",
        side: 3,
        size: leftOfTimes(),
        splits: () => named.map(row => (row.top + row.bottom) / 2),
        values: () => named.map(row => (narrow() ? "" : "worker ") + row.worker),
        grid: { show: false },
        ticks: { show: false },
      })],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      hooks: { draw: [drawTimeline], setCursor: [describe], setScale: [(u, key) => key === "x" && follow(u)] },
    }, [[data.start, data.start + data.span], [null, null]]);
  }

  function makeUtilisation() {
    const { times, busy, workers } = data.utilisation, stepped = uPlot.paths.stepped({ align: 1 });
    return chart("utilisation", 180, {
      scales: { ...over, y: { range: (u, min, max) => [0, Math.max(max, 1) * 1.05] } },
      series: [{},
        { stroke: () => color("text"), dash: [6, 4], paths: stepped, points: { show: false } },
        { stroke: () => color("run"), fill: () => color("run-area"), width: 1.5, paths: stepped, points: { show: false } }],
      axes: [timeAxis(), axis({ size: leftOfTimes(), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] })],
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      hooks: {
        setScale: [(u, key) => key === "x" && follow(u)],
        setCursor: [u => {
          const i = u.cursor.idx;
          if (i !== null && i !== undefined) document.getElementById("utilisation-says").textContent =
            `${seconds(times[i])}: ${busy[i]} of ${workers[i]} workers run calls`;
        }],
      },
    }, [times, workers, busy]);
  }

  function makeHistogram() {
    const { low, high, calls } = data.histogram, top = Math.max(...calls), edges = [...low, high[high.length - 1]];
    const every = u => Math.ceil(edges.length * 70 / u.width);
    return chart("histogram", 200, {
      scales: {
        x: { time: false, range: [-0.6, low.length - 0.4] },
        y: { distr: 3, range: [0.5, Math.max(top, 5) * 1.5] },
      },
      series: [{}, { fill: () => color("run"), paths: uPlot.paths.bars({ size: [0.95, Infinity] }), points: { show: false } }],
      axes: [
        axis({
          size: 32,
          splits: u => edges.flatMap((_, i) => i % every(u) ? [] : [i - 0.5]),
          values: (u, splits) => splits.map(at => seconds(+edges[at + 0.5].toPrecision(2))),
        }),
        axis({
          size: leftOfTimes(),
          splits: () => Array.from({ length: 1 + Math.floor(Math.log10(Math.max(top, 5) * 1.5)) }, (_, i) => 10 ** i),
          values: (u, splits) => splits.map(n => n >= 1e6 ? `${n / 1e6}M` : n >= 1e4 ? `${n / 1e3}k` : n),
        }),
      ],
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      hooks: {
        setCursor: [u => {
          const i = u.cursor.idx;
          if (low[i] !== undefined) document.getElementById("histogram-says").textContent =
            `${calls[i].toLocaleString("en")} calls took ${seconds(low[i])} to ${seconds(high[i])}`;
        }],
      },
    }, [low.map((_, i) => i), calls.map(n => n || null)]);
  }

  // ---- the page ----

  let timeline, utilisation;
  function draw() {
    for (const u of charts.splice(0)) u.destroy();
    timeline = utilisation = undefined;
    [timeline, utilisation] = [makeTimeline(), makeUtilisation()];
    if (data.histogram.calls.length) makeHistogram();
  }

  function stretch(factor, shift = 0) {
    const { min, max } = timeline.scales.x;
    const width = Math.max(Math.min((max - min) * factor, data.span), 10 * data.tick);
    const wanted = (min + max - width) / 2 + shift * width;
    const from = Math.max(data.start, Math.min(wanted, data.start + data.span - width));
    zoom(from, from + width);
  }

  const actions = {
    in: () => stretch(0.5),
    out: () => stretch(2),
    earlier: () => stretch(1, -0.5),
    later: () => stretch(1, 0.5),
    whole: () => zoom(data.start, data.start + data.span),
  };
  for (const button of document.querySelectorAll("button[data-zoom]")) {
    button.addEventListener("click", actions[button.dataset.zoom]);
  }

  if (!rows.length) return;
  draw();
  let width = root.clientWidth;
  addEventListener("resize", () => {
    if (root.clientWidth !== width) draw();
    width = root.clientWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Paper is white and narrow, whatever the screen is.
  addEventListener("beforeprint", () => { root.classList.add("printed"); draw(); });
  addEventListener("afterprint", () => { root.classList.remove("printed"); draw(); });
})();
