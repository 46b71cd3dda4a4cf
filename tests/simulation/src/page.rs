//! Draws a failing run as one HTML page: a lane for each shard, its owners as bars, and the events on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::event::{Event, EventKind, Name, ShardNumber, WriteKind};
use crate::run::Outcome;
use crate::timeline::timeline;

/// Width of the drawing, in pixels.
const WIDTH: u64 = 1600;

/// Width reserved for the lane names, in pixels.
const MARGIN: u64 = 60;

/// Height of a lane, in pixels.
const LANE: u64 = 34;

/// Colours of the workers, reused in turn.
const COLOURS: [&str; 10] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
    "#bab0ac",
];

struct Drawing {
    svg: String,
    lanes: BTreeMap<ShardNumber, u64>,
    end: u64,
}

impl Drawing {
    fn x(&self, at: u64) -> u64 {
        MARGIN + at.min(self.end) * (WIDTH - MARGIN) / self.end.max(1)
    }

    fn y(&self, shard: ShardNumber) -> u64 {
        30 + self.lanes.get(&shard).copied().unwrap_or(0) * LANE
    }

    fn bar(&mut self, shard: ShardNumber, owner: Name, from: u64, to: u64, title: &str) {
        let (x, y) = (self.x(from), self.y(shard));
        let width = self.x(to).saturating_sub(x).max(1);
        let colour = COLOURS[owner as usize % COLOURS.len()];
        let _ = writeln!(
            self.svg,
            "<rect x='{x}' y='{y}' width='{width}' height='14' fill='{colour}'><title>{}</title></rect>",
            escaped(title)
        );
    }

    fn tick(&mut self, event: &Event, shard: ShardNumber, offset: u64, colour: &str, title: &str) {
        let (x, y) = (self.x(event.at), self.y(shard) + offset);
        let _ = writeln!(
            self.svg,
            "<rect x='{x}' y='{y}' width='1.5' height='7' fill='{colour}'><title>{}</title></rect>",
            escaped(title)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

/// Renders the outcome as a self-contained page without scripts.
pub fn page(outcome: &Outcome) -> String {
    let mut lanes = BTreeMap::new();
    for event in &outcome.events {
        if let EventKind::ShardCreated { shard, .. } = event.kind {
            let lane = lanes.len() as u64;
            lanes.entry(shard).or_insert(lane);
        }
    }
    let end = outcome.events.last().map_or(1, |event| event.at.max(1));
    let height = 60 + lanes.len() as u64 * LANE;
    let mut drawing = Drawing { svg: String::new(), lanes, end };
    draw(outcome, &mut drawing, height);
    let verdict =
        outcome.violation.as_ref().map_or_else(|| "all promises hold".to_owned(), ToString::to_string);
    let plan = &outcome.plan;
    format!(
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>simulation {scenario} {seed}</title>\n\
         <style>body{{font:14px sans-serif;margin:1em}}svg text{{font:11px sans-serif}}pre{{font-size:12px}}</style>\n\
         <h1>{scenario}, seed {seed}</h1>\n<p><b>{verdict}</b></p>\n\
         <p>One lane per shard. Bars: the lease owner, one colour per worker. Below them: delivered (grey), \
         acknowledged (green), failed or cancelled (red); above: checkpoints (black). Dashed: faults. Hover over a mark \
         to see its event.</p>\n\
         <svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}'>\n{svg}</svg>\n<pre>{text}</pre>\n</html>\n",
        scenario = plan.scenario,
        seed = plan.seed,
        verdict = escaped(&verdict),
        svg = drawing.svg,
        text = escaped(&timeline(outcome)),
    )
}

fn draw(outcome: &Outcome, drawing: &mut Drawing, height: u64) {
    for (shard, lane) in drawing.lanes.clone() {
        let y = 41 + lane * LANE;
        let _ = writeln!(drawing.svg, "<text x='4' y='{y}'>s{shard}</text>");
    }
    let mut owned: BTreeMap<ShardNumber, (Name, u64)> = BTreeMap::new();
    for event in &outcome.events {
        let title = outcome.names.line(event);
        match &event.kind {
            EventKind::LeaseWritten { shard, kind, after, .. } => {
                let owner = after.and_then(|row| row.owner);
                let before = owned.get(shard).copied();
                if before.map(|(owner, _)| owner) != owner {
                    if let Some((before, since)) = owned.remove(shard) {
                        let name = outcome.names.name(before).to_owned();
                        drawing.bar(*shard, before, since, event.at, &format!("{name} from {since} ms"));
                    }
                    if let Some(owner) = owner {
                        owned.insert(*shard, (owner, event.at));
                    }
                }
                if *kind == WriteKind::Checkpoint {
                    drawing.tick(event, *shard, 0, "black", &title);
                }
            }
            EventKind::Delivered(batch) => drawing.tick(event, batch.shard, 15, "#999", &title),
            EventKind::Acknowledged(batch) => drawing.tick(event, batch.shard, 22, "green", &title),
            EventKind::BatchFailed(batch, _) | EventKind::BatchCancelled(batch) => {
                drawing.tick(event, batch.shard, 22, "red", &title);
            }
            EventKind::ShardClosed { shard } => drawing.tick(event, *shard, 8, "blue", &title),
            EventKind::ProcessCrashed { .. }
            | EventKind::StopRequested { .. }
            | EventKind::Disturbed { .. }
            | EventKind::ProcessStarted { .. }
            | EventKind::FaultsOver
            | EventKind::AdoptionAllowed
            | EventKind::Note(_) => {
                let x = drawing.x(event.at);
                let _ = writeln!(
                    drawing.svg,
                    "<line x1='{x}' x2='{x}' y1='20' y2='{height}' stroke='#c44' stroke-dasharray='3'>\
                     <title>{}</title></line>",
                    escaped(&title)
                );
            }
            _ => {}
        }
    }
    let end = drawing.end;
    for (shard, (owner, since)) in owned {
        let name = outcome.names.name(owner).to_owned();
        drawing.bar(shard, owner, since, end, &format!("{name} from {since} ms"));
    }
}
