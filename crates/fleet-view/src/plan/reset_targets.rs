//! Which position each shard gets in a reset, with the lineage right after it. Pure.
//!
//! The rules, for every kind of target:
//!
//! - A closed shard that is skipped ends, and its children have rows: otherwise a worker would start them at its own initial
//!   position.
//! - An unread shard without a row gets one before a descendant does: otherwise it would count as read.
//! - A shard that began after the positions of a file were taken is read from its beginning.
//! - A shard outside the asked range keeps its row.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{Position, ShardId};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::look::Look;
use crate::plan::effect::Place;
use crate::plan::refusal::{Note, Refusal};
use crate::positions_file::PositionsFile;

/// Where reading is to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetTo {
    /// At the oldest records that the stream keeps.
    TrimHorizon,
    /// At the records that arrive from now on.
    Latest,
    /// At the first records that arrived at a time or later.
    Time {
        /// The time, in milliseconds since 1970.
        at_millis: u64,
        /// The positions before that time, as far as the caller looked them up. They work for workers of the KCL too, which
        /// do not store the time.
        resolved: BTreeMap<ShardId, TextPosition>,
    },
    /// At the records of the newest time span.
    Ago {
        /// The time span, in milliseconds.
        millis: u64,
    },
    /// At the positions of a file.
    Positions(PositionsFile),
}

/// A position, as text in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TextPosition(#[serde(with = "crate::text::position_text")] pub Position);

/// Which shards are reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All shards that the stream lists.
    All,
    /// Some shards.
    Shards {
        /// The shards.
        shards: BTreeSet<ShardId>,
        /// Whether all shards that came from them are reset too.
        with_descendants: bool,
    },
}

/// The positions to set, and what is to say about them.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) places: BTreeMap<ShardId, Place>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) notes: Vec<Note>,
}

/// The positions to set.
pub(crate) fn targets(look: &Look, lineage: &Lineage, to: &ResetTo, scope: &Scope) -> Targets {
    let now_millis = look.taken_at_millis;
    let mut targets = Targets::default();
    match to {
        ResetTo::Positions(file) => targets.add_file(look, lineage, file, scope),
        ResetTo::TrimHorizon => {
            targets.add_shards(look, lineage, scope, |_, _| Place::new(Position::TrimHorizon, None));
        }
        ResetTo::Latest => targets.add_shards(look, lineage, scope, |_, is_open| match is_open {
            true => Place::new(Position::Latest, Some(now_millis)),
            false => Place::new(Position::ShardEnd, None),
        }),
        ResetTo::Time { at_millis, resolved } => {
            targets.check_time(look, *at_millis);
            targets.add_shards(look, lineage, scope, |shard_id, _| match resolved.get(shard_id) {
                Some(TextPosition(position)) => Place::new(position.clone(), None),
                None => Place::new(Position::AtTimestamp, Some(*at_millis)),
            });
        }
        ResetTo::Ago { millis } => {
            let at_millis = now_millis.saturating_sub(*millis);
            targets.check_time(look, at_millis);
            targets
                .add_shards(look, lineage, scope, |_, _| Place::new(Position::AtTimestamp, Some(at_millis)));
        }
    }
    targets.add_children_of_ended(look, lineage);
    targets.add_parents_of_new(look, lineage);
    targets
}

impl Targets {
    fn check_time(&mut self, look: &Look, at_millis: u64) {
        if at_millis > look.taken_at_millis {
            self.refusals.push(Refusal::FutureTime { at_millis });
        }
        let Some(stream) = &look.stream else { return };
        let horizon = look.taken_at_millis.saturating_sub(stream.retention_millis);
        if at_millis < horizon {
            self.notes.push(Note::BeforeHorizon { millis: horizon - at_millis });
        }
    }

    /// Adds the same target for each shard in scope, which depends on whether the shard is open.
    fn add_shards(
        &mut self,
        look: &Look,
        lineage: &Lineage,
        scope: &Scope,
        place_of: impl Fn(&ShardId, bool) -> Place,
    ) {
        let listed = look.listed();
        for shard_id in self.in_scope(look, lineage, scope) {
            if let Some(shard) = listed.get(&shard_id) {
                let place = place_of(&shard_id, shard.is_open);
                self.places.insert(shard_id, place);
            }
        }
        if matches!(scope, Scope::All) {
            let rows = look.leases.iter().filter(|lease| !lease.is_finished());
            let gone = rows.filter(|lease| !listed.contains_key(&lease.shard_id));
            self.notes.extend(gone.map(|lease| Note::LeftGoneShard { shard_id: lease.shard_id.clone() }));
        }
    }

    /// The shards in scope that the stream lists.
    fn in_scope(&mut self, look: &Look, lineage: &Lineage, scope: &Scope) -> BTreeSet<ShardId> {
        let listed = look.listed();
        let (shards, with_descendants) = match scope {
            Scope::All => return listed.into_keys().cloned().collect(),
            Scope::Shards { shards, with_descendants } => (shards, *with_descendants),
        };
        let mut all = BTreeSet::new();
        for shard_id in shards {
            if listed.contains_key(shard_id) {
                all.insert(shard_id.clone());
            } else if look.lease(shard_id).is_some() {
                self.refusals.push(Refusal::GoneShard { shard_id: shard_id.clone() });
            } else {
                self.refusals.push(Refusal::UnknownShard { shard_id: shard_id.clone() });
            }
            let descendants = lineage.descendants(shard_id);
            if with_descendants {
                all.extend(descendants.into_iter().filter(|descendant| listed.contains_key(descendant)));
            } else if descendants.iter().any(|descendant| !shards.contains(descendant)) {
                self.notes.push(Note::ChildrenStay { shard_id: shard_id.clone() });
            }
        }
        all
    }

    /// Adds the positions of a file. Shards that began after it was taken are read from their beginning. A shard between two of
    /// the file was read to its end by then, and its row deleted; its present row stays, which skips nothing.
    fn add_file(&mut self, look: &Look, lineage: &Lineage, file: &PositionsFile, scope: &Scope) {
        match (look.identity(), &file.stream) {
            (Some(expected), Some(found)) if expected != found => {
                let (expected, found) = (expected.clone(), found.clone());
                self.refusals.push(Refusal::OtherStream { expected, found });
            }
            (Some(_), Some(_)) => {}
            (None, _) | (_, None) => self.refusals.push(Refusal::StreamUnknown),
        }
        let listed = look.listed();
        let scope = match scope {
            Scope::All => None,
            Scope::Shards { .. } => Some(self.in_scope(look, lineage, scope)),
        };
        let is_in_scope = |shard_id: &ShardId| scope.as_ref().is_none_or(|scope| scope.contains(shard_id));
        // The file knows parents that stream and table may have forgotten.
        let mut lineage = lineage.clone();
        for shard in &file.shards {
            shard.parents.iter().for_each(|parent| lineage.add(parent, &shard.shard_id));
        }
        let mentioned: BTreeMap<&ShardId, bool> =
            file.shards.iter().map(|shard| (&shard.shard_id, shard.position.is_shard_end())).collect();
        for shard in file.shards.iter().filter(|shard| is_in_scope(&shard.shard_id)) {
            let shard_id = shard.shard_id.clone();
            let Some(of_stream) = listed.get(&shard_id) else {
                if look.lease(&shard_id).is_some_and(|lease| !lease.is_finished()) {
                    self.notes.push(Note::LeftGoneShard { shard_id });
                }
                continue;
            };
            let place = match shard.position {
                Position::ShardEnd if of_stream.is_open => {
                    self.refusals.push(Refusal::OpenShardCannotEnd { shard_id });
                    continue;
                }
                // Nothing was stored when the file was taken. With its instant, nothing after it is skipped.
                Position::Latest if shard.initial_time_millis.is_none() => {
                    self.notes.push(Note::InstantUnknown { shard_id: shard_id.clone() });
                    Place::new(Position::AtTimestamp, Some(file.taken_at_millis))
                }
                Position::After(_) | Position::ShardEnd => Place::new(shard.position.clone(), None),
                _ => Place::new(shard.position.clone(), shard.initial_time_millis),
            };
            self.places.insert(shard_id, place);
        }
        for shard_id in listed.into_keys().filter(|shard_id| !mentioned.contains_key(shard_id)) {
            if !is_in_scope(shard_id) {
                continue;
            }
            let ancestors = lineage.ancestors(shard_id);
            let is_new = ancestors.iter().any(|ancestor| mentioned.contains_key(ancestor))
                && !lineage.descendants(shard_id).iter().any(|descendant| mentioned.contains_key(descendant));
            let waited = ancestors.iter().any(|ancestor| mentioned.get(ancestor).is_some_and(|ended| !ended));
            if is_new || waited {
                self.places.insert(shard_id.clone(), Place::new(Position::TrimHorizon, None));
            } else {
                self.notes.push(Note::NotInFile { shard_id: shard_id.clone() });
            }
        }
    }

    /// Adds children without a row to shards that are to end. Their records were not asked to be skipped.
    fn add_children_of_ended(&mut self, look: &Look, lineage: &Lineage) {
        let (rows, listed) = (look.rows(), look.listed());
        let ended = self.places.iter().filter(|(_, place)| place.position.is_shard_end());
        let children = ended.flat_map(|(shard_id, _)| lineage.children(shard_id));
        let missing: BTreeSet<ShardId> = children
            .filter(|child| listed.contains_key(*child) && !rows.contains_key(*child))
            .filter(|child| !self.places.contains_key(*child))
            .cloned()
            .collect();
        // A child whose own descendants have rows was read to its end, and its row was deleted.
        let cleaned_up = lineage.ancestors_of_any(rows.keys().copied());
        for child in missing.into_iter().filter(|child| !cleaned_up.contains(child)) {
            self.places.insert(child, Place::new(Position::TrimHorizon, None));
        }
    }

    /// Adds the ancestors of shards that get a row, where they have none and were not read: once a descendant has a row, they
    /// would count as read.
    fn add_parents_of_new(&mut self, look: &Look, lineage: &Lineage) {
        let (rows, listed) = (look.rows(), look.listed());
        let cleaned_up = lineage.ancestors_of_any(rows.keys().copied());
        let new = self
            .places
            .keys()
            .filter(|shard_id| !rows.contains_key(*shard_id) && !cleaned_up.contains(*shard_id));
        let unread = lineage.ancestors_of_any(new).into_iter().filter(|ancestor| {
            listed.contains_key(ancestor) && !rows.contains_key(ancestor) && !cleaned_up.contains(ancestor)
        });
        let unread: Vec<ShardId> = unread.filter(|ancestor| !self.places.contains_key(ancestor)).collect();
        for ancestor in unread {
            self.places.insert(ancestor, Place::new(Position::TrimHorizon, None));
        }
    }
}
