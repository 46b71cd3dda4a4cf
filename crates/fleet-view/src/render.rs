//! A fleet for a terminal of any width, and as JSON. Pure.
//!
//! With few shards each has a line; with many, those that need attention come first, and the rest is counted.

use serde::{Deserialize, Serialize};

use crate::error::{FleetError, FleetErrorKind};
use crate::history::History;
use crate::look::FleetMode;
use crate::shard_view::{ShardView, WorkerView};
use crate::snapshot::FleetSnapshot;
use crate::text::{duration_text, instant_text};
use crate::verdict::{FleetVerdict, ShardVerdict, TimeToLoss, Verdict};

/// The smallest width that lines are made for, in characters.
pub const MIN_WIDTH: usize = 40;

/// The most shards and workers that lines are made for.
pub const MAX_SHOWN_SHARDS: usize = 40;

/// From this width on, a line has a column for each fact.
const WIDE: usize = 72;

/// The prefix of all shard ids of Kinesis, which narrow lines leave out.
const SHARD_PREFIX: &str = "shardId-";

/// A snapshot together with its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// The newest look.
    pub snapshot: FleetSnapshot,
    /// The verdict about it.
    pub verdict: FleetVerdict,
}

impl FleetView {
    /// The newest look of a history; `None` before the first one.
    pub fn of(history: &History) -> Option<Self> {
        Some(Self { snapshot: history.snapshot()?.clone(), verdict: history.verdict() })
    }

    /// The view as JSON. Sequence numbers and hash keys are text.
    ///
    /// # Errors
    /// `Unwritable` when a value has no JSON; none is known to.
    pub fn to_json(&self) -> Result<String, FleetError> {
        serde_json::to_string(self).map_err(|error| {
            FleetError::new(FleetErrorKind::Unwritable, "the view cannot be written as JSON")
                .with_source(error)
        })
    }

    /// The view as lines of at most `width` characters. A width below [`MIN_WIDTH`] counts as that.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let width = width.max(MIN_WIDTH);
        let mut lines = self.head();
        lines.push(String::new());
        lines.extend(self.workers(width));
        lines.push(String::new());
        lines.extend(self.shards(width));
        if !self.verdict.signs.is_empty() {
            lines.push(String::new());
            for sign in &self.verdict.signs {
                let mark = if sign.is_error() { "!" } else { "-" };
                lines.extend(wrapped(&format!("{mark} {sign}"), width));
            }
        }
        lines.iter().map(|line| cut(&printable(line), width)).collect()
    }

    fn head(&self) -> Vec<String> {
        let Self { snapshot, verdict } = self;
        let mut lines = vec![
            format!("{}: {}", snapshot.application, verdict.verdict.text()),
            format!("at {}, {}", instant_text(snapshot.taken_at_millis), counted(verdict.looks, "look")),
        ];
        if let Some(stream) = &snapshot.stream {
            let retention = duration_text(stream.retention_millis);
            lines.push(format!("stream {}, {}, keeps {retention}", stream.name, stream.status));
        }
        if snapshot.mode == FleetMode::LeaderAssigns {
            lines.push("a KCL 3.x leader assigns the leases".to_owned());
        }
        let counts = verdict.counts.iter().rev();
        let counts: Vec<String> =
            counts.map(|(verdict, count)| format!("{count} {}", verdict.text())).collect();
        lines.push(if counts.is_empty() { "no shards".to_owned() } else { counts.join(", ") });
        if let Some(behind) = verdict.behind_millis {
            lines.push(format!("at most {} behind", duration_text(behind)));
        }
        if let Some((shard_id, left)) = &verdict.first_loss {
            let when = if *left == 0 { "now".to_owned() } else { format!("in {}", duration_text(*left)) };
            lines.push(format!("records lost {when}: {}", shard_id.as_str()));
        }
        lines
    }

    fn workers(&self, width: usize) -> Vec<String> {
        let workers = &self.snapshot.workers;
        let mut lines = vec![counted(workers.len() as u64, "worker")];
        let mut sorted: Vec<&WorkerView> = workers.iter().collect();
        sorted.sort_by_key(|worker| std::cmp::Reverse(worker.shards.len()));
        let name_width = name_width(sorted.iter().map(|worker| worker.worker_id.as_str()), width);
        for worker in sorted.iter().take(MAX_SHOWN_SHARDS) {
            let name = fitted(worker.worker_id.as_str(), name_width);
            let count = worker.shards.len();
            let rate = worker.processed_bytes_per_second.map(rate_text).unwrap_or_default();
            lines.push(format!("  {name} {count:>5} {rate}").trim_end().to_owned());
        }
        lines.extend(rest(workers.len(), "worker"));
        lines
    }

    fn shards(&self, width: usize) -> Vec<String> {
        let mut shards: Vec<(&ShardView, &ShardVerdict)> = self
            .snapshot
            .shards
            .iter()
            .filter_map(|shard| Some((shard, self.verdict.shards.get(&shard.shard_id)?)))
            .filter(|(_, verdict)| verdict.verdict != Verdict::Ended)
            .collect();
        let count = shards.len();
        let mut lines = vec![format!("{} to read", counted(count as u64, "shard"))];
        if count > MAX_SHOWN_SHARDS {
            // The most urgent ones first; among equals the one that is furthest behind.
            shards.sort_by_key(|(_, verdict)| std::cmp::Reverse((verdict.verdict, verdict.behind_millis)));
            shards.truncate(MAX_SHOWN_SHARDS);
        }
        let owner = |shard: &ShardView| match &shard.owner {
            Some(owner) => owner.as_str().to_owned(),
            None => "-".to_owned(),
        };
        let owner_width = name_width(
            shards.iter().map(|(shard, _)| shard.owner.as_ref().map_or("-", |o| o.as_str())),
            width,
        );
        for (shard, verdict) in shards {
            let id = shard.shard_id.as_str();
            let text = verdict.verdict.text();
            let behind = verdict.behind_millis.map_or_else(|| "?".to_owned(), duration_text);
            let line = if width >= WIDE {
                let owner = fitted(&owner(shard), owner_width);
                let loss = loss_text(verdict.time_to_loss);
                format!("  {} {owner} {text:<14} {behind:>7} {loss}", short_id(id, 13))
            } else {
                format!("  {} {text:<14} {behind:>7}", short_id(id, width.saturating_sub(26).min(13)))
            };
            lines.push(line.trim_end().to_owned());
            let reason = verdict.reason();
            if verdict.verdict.is_alarm() && !reason.is_empty() {
                lines.push(format!("    {reason}"));
            }
        }
        lines.extend(rest(count, "shard"));
        lines
    }
}

/// The line for the entries that are not shown.
fn rest(count: usize, what: &str) -> Option<String> {
    let more = count.checked_sub(MAX_SHOWN_SHARDS).filter(|more| *more > 0)?;
    Some(format!("  … and {} more", counted(more as u64, what)))
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The time until records are lost, if they are about to be.
fn loss_text(loss: TimeToLoss) -> String {
    match loss {
        TimeToLoss::In { at_pace_millis: Some(0), .. } => "losing records".to_owned(),
        TimeToLoss::In { at_pace_millis: Some(left), .. } => format!("lost in {}", duration_text(left)),
        TimeToLoss::In { .. } | TimeToLoss::Unknown | TimeToLoss::NothingWaits => String::new(),
    }
}

/// Bytes per second for people.
fn rate_text(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0..1_000 => format!("{bytes_per_second} B/s"),
        1_000..1_000_000 => format!("{} kB/s", bytes_per_second / 1_000),
        _ => format!("{} MB/s", bytes_per_second / 1_000_000),
    }
}

/// The width of a column of names: that of the longest, and at most a third of the line.
fn name_width<'a>(names: impl Iterator<Item = &'a str>, width: usize) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or_default().clamp(1, width / 3)
}

/// A name in exactly this many characters. Of a long one its end remains, which tells workers apart.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return format!("{name}{}", " ".repeat(width - length));
    }
    let end: String = name.chars().skip(length + 1 - width).collect();
    format!("…{end}")
}

/// A shard id in exactly this many characters, without its usual prefix.
fn short_id(id: &str, width: usize) -> String {
    fitted(id.strip_prefix(SHARD_PREFIX).unwrap_or(id), width)
}

/// The text without characters that move the cursor: names come from a table that anyone may write.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let start: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{start}…")
}

/// A text in lines of at most this width, the later ones indented. A longer word is cut when it is shown.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_end() {
        assert_eq!(fitted("abc", 5), "abc  ");
        assert_eq!(fitted("worker-12", 4), "…-12");
        assert_eq!(short_id("shardId-000000000007", 13), "000000000007 ");
    }

    #[test]
    fn control_characters_are_not_printed() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a?[31m?b");
    }

    #[test]
    fn texts_are_wrapped_at_blanks() {
        assert_eq!(wrapped("! one two three", 8), ["! one", "  two", "  three"]);
    }
}
