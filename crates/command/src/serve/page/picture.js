// Draws the past of a fleet on a canvas: bands of hash keys, events, and lag, on one time axis. Knows nothing of the rest of the page.

const LEFT = 58, RIGHT = 14, TOP = 8, AXIS = 22, EVENTS = 22;
const TICKS = [1, 10, 60, 600, 3600, 21600, 86400, 604800, 2592000];
const MARKS = {
  "taken": "·", "released": "·", "handed-over": "→", "taken-over": "⇒", "fenced": "✕", "reshard": "⑂", "ended": "▪",
  "rewound": "↺", "paused": "‖", "worker-started": "+", "worker-gone": "−", "alarm": "▲", "recovered": "✓", "more": "…",
};
const LOUD = new Set(["fenced", "taken-over", "rewound", "alarm", "worker-gone"]);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || seconds < 0) return "?";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) {
      const whole = Math.floor(seconds / size), rest = Math.floor((seconds % size) / (size / (unit === "d" ? 24 : 60)));
      return rest && whole < 10 ? `${whole} ${unit} ${rest} ${unit === "d" ? "h" : unit === "h" ? "min" : "s"}` : `${whole} ${unit}`;
    }
  }
  return `${Math.round(seconds)} s`;
}

export function colour(number, isDark) {
  return number < 0 ? null : `hsl(${(number * 137.508 + 205) % 360} ${isDark ? "52% 56%" : "58% 52%"})`;
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.hits = [];
    this.eventHits = [];
  }

  // The panes, in pixels of the page.
  layout() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const inner = height - TOP - AXIS - EVENTS - 16;
    const bands = { top: TOP, height: Math.round(inner * 0.58) };
    const events = { top: bands.top + bands.height + 4, height: EVENTS };
    const lag = { top: events.top + events.height + 4, height: height - AXIS - (events.top + events.height + 4) };
    return { width, height, left: LEFT, right: width - RIGHT, bands, events, lag };
  }

  draw(state, past, selected, isDark) {
    const ratio = window.devicePixelRatio || 1, { canvas } = this, box = this.layout();
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement), ink = (name) => style.getPropertyValue(name).trim();
    const inks = { front: ink("--front"), faint: ink("--faint"), line: ink("--line"), alarm: ink("--alarm"), none: ink("--none"), mark: ink("--mark") };
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const times = past.times, start = times[0], end = Math.max(times[times.length - 1], start + 60000);
    const x = (time) => box.left + (box.right - box.left) * (time - start) / (end - start);
    // Each point stands for the time up to the next one.
    const edge = (point) => point >= times.length ? box.right : x(times[point]);
    const byId = new Map(state.shards.map((shard) => [shard.id, shard]));
    this.bandsPane(pen, box, past, byId, selected, isDark, inks, edge);
    this.eventsPane(pen, box, past, selected, inks, x);
    this.lagPane(pen, box, state, past, byId, selected, isDark, inks, edge);
    this.axis(pen, box, start, end, inks, x);
  }

  bandsPane(pen, box, past, byId, selected, isDark, inks, edge) {
    const { top, height } = box.bands, y = (part) => top + height * part;
    this.hits = [];
    const forks = [];
    for (const [id, track] of Object.entries(past.shards)) {
      const shard = byId.get(id);
      if (!shard || !shard.keys) continue;
      // Whole pixels: of many shards in one row of pixels the first one is drawn, and an alarm always.
      const y0 = Math.round(y(shard.keys[0])), full = Math.round(y(shard.keys[1])) - y0;
      const tall = full > 0 ? full : shard.alarm || id === selected ? 1 : 0, gap = tall > 4 ? 1 : 0;
      let from = 0;
      for (let point = 1; point <= track.owner.length; point++) {
        if (point < track.owner.length && track.owner[point] === track.owner[from]) continue;
        const owner = track.owner[from], x0 = edge(track.first + from), x1 = edge(track.first + point);
        if (owner !== -2 && tall > 0) {
          pen.fillStyle = colour(owner, isDark) || inks.none;
          pen.fillRect(x0, y0, Math.max(x1 - x0, 1), tall - gap);
        }
        from = point;
      }
      const begins = track.owner.findIndex((owner) => owner !== -2);
      if (begins >= 0 && tall > 0) this.hits.push({ id, y0, y1: y0 + tall, x0: edge(track.first + begins), x1: this.lastEdge(track, edge) });
      if (begins >= 0 && track.first + begins > 0 && shard.parents.length) forks.push([shard, edge(track.first + begins)]);
      if (shard.alarm) {
        pen.fillStyle = inks.alarm;
        pen.fillRect(box.right + 2, y0, 8, Math.max(tall - gap, 1.5));
      }
      if (tall > 13 && begins >= 0) {
        pen.fillStyle = inks.faint;
        pen.textAlign = "right";
        pen.fillText(id.replace(/^shardId-0*(?=\d)/, ""), box.left - 6, y0 + tall / 2);
      }
    }
    pen.strokeStyle = inks.front;
    pen.lineWidth = 1.5;
    for (const [shard, at] of forks) {
      for (const parent of shard.parents) {
        const keys = byId.get(parent)?.keys;
        if (!keys) continue;
        const from = y((keys[0] + keys[1]) / 2), to = y((shard.keys[0] + shard.keys[1]) / 2);
        pen.beginPath();
        pen.moveTo(at - 12, from);
        pen.bezierCurveTo(at - 4, from, at - 6, to, at + 4, to);
        pen.stroke();
      }
    }
    const hit = this.hits.find((hit) => hit.id === selected);
    if (hit) {
      pen.strokeStyle = inks.mark;
      pen.lineWidth = 2;
      pen.strokeRect(hit.x0, hit.y0 - 1, hit.x1 - hit.x0, hit.y1 - hit.y0 + 2);
    }
  }

  lastEdge(track, edge) {
    let last = track.owner.length;
    while (last > 0 && track.owner[last - 1] === -2) last--;
    return edge(track.first + last);
  }

  eventsPane(pen, box, past, selected, inks, x) {
    const { top, height } = box.events;
    this.eventHits = [];
    pen.strokeStyle = inks.line;
    pen.lineWidth = 1;
    pen.strokeRect(box.left, top, box.right - box.left, height);
    pen.textAlign = "center";
    for (const event of past.events) {
      if (event.at < past.times[0]) continue;
      const at = x(event.at), isOwn = selected && event.shard === selected;
      pen.fillStyle = isOwn ? inks.mark : LOUD.has(event.kind) ? inks.alarm : inks.faint;
      pen.fillText(MARKS[event.kind] || "•", at, top + height / 2);
      this.eventHits.push({ at, event });
    }
  }

  lagPane(pen, box, state, past, byId, selected, isDark, inks, edge) {
    const { top, height } = box.lag;
    let most = 10;
    for (const track of Object.values(past.shards)) for (const lag of track.lag) if (lag > most) most = lag;
    const retention = state.retention ? state.retention / 1000 : null;
    const near = retention && most * 20 > retention;
    const scale = Math.log1p((near ? Math.max(most, retention) : most) * 1.15);
    const y = (seconds) => top + height - (height - 6) * Math.log1p(seconds) / scale;
    pen.textAlign = "right";
    pen.lineWidth = 1;
    for (const tick of TICKS) {
      if (y(tick) < top) break;
      pen.strokeStyle = inks.line;
      pen.beginPath(); pen.moveTo(box.left, y(tick)); pen.lineTo(box.right, y(tick)); pen.stroke();
      pen.fillStyle = inks.faint;
      pen.fillText(duration(tick), box.left - 6, y(tick));
    }
    if (near) {
      pen.strokeStyle = inks.alarm;
      pen.setLineDash([6, 4]);
      pen.beginPath(); pen.moveTo(box.left, y(retention)); pen.lineTo(box.right, y(retention)); pen.stroke();
      pen.setLineDash([]);
      pen.fillStyle = inks.alarm;
      pen.fillText("lost", box.left - 6, y(retention));
    }
    const tracks = Object.entries(past.shards), isMany = tracks.length > 60;
    const line = (id, track, width) => {
      const last = track.owner[track.owner.length - 1], isAlarm = byId.get(id)?.alarm;
      pen.strokeStyle = id === selected ? inks.mark : isAlarm ? inks.alarm : colour(last, isDark) || inks.none;
      pen.globalAlpha = id === selected || isAlarm || !isMany ? 1 : 0.35;
      pen.lineWidth = width;
      pen.beginPath();
      let isDown = false;
      track.lag.forEach((lag, point) => {
        if (lag < 0) { isDown = false; return; }
        const at = edge(track.first + point);
        if (isDown) pen.lineTo(at, y(lag)); else pen.moveTo(at, y(lag));
        if (!isDown && track.lag.length - 1 === point) pen.lineTo(box.right, y(lag));
        isDown = true;
      });
      pen.stroke();
      pen.globalAlpha = 1;
    };
    for (const [id, track] of tracks) if (id !== selected && (!isMany || track.lag.some((lag) => lag > 0))) line(id, track, 1.2);
    if (past.shards[selected]) line(selected, past.shards[selected], 3);
  }

  axis(pen, box, start, end, inks, x) {
    const span = end - start, steps = [10e3, 30e3, 60e3, 300e3, 600e3, 1800e3, 3600e3, 7200e3, 21600e3, 43200e3, 86400e3];
    const step = steps.find((step) => span / step <= Math.max(2, Math.floor((box.right - box.left) / 110))) || 604800e3;
    pen.fillStyle = inks.faint;
    pen.textAlign = "center";
    const offset = new Date(start).getTimezoneOffset() * 60000;
    for (let time = Math.ceil((start - offset) / step) * step + offset; time <= end; time += step) {
      const text = new Date(time).toLocaleTimeString([], step < 60e3 ? {} : { hour: "2-digit", minute: "2-digit" });
      pen.fillText(text, Math.min(Math.max(x(time), box.left + 18), box.right - 26), box.height - AXIS / 2);
    }
  }

  // What is at a place of the canvas: a shard, an event, or nothing.
  at(offsetX, offsetY) {
    const box = this.layout();
    if (offsetY >= box.events.top && offsetY <= box.events.top + box.events.height) {
      const near = this.eventHits.filter((hit) => Math.abs(hit.at - offsetX) < 6);
      return near.length ? { events: near.slice(-6).map((hit) => hit.event) } : null;
    }
    const hit = this.hits.find((hit) => offsetY >= hit.y0 && offsetY < hit.y1 && offsetX >= hit.x0 && offsetX <= hit.x1);
    return hit ? { shard: hit.id } : null;
  }
}
