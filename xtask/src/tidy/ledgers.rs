//! Checks that documents name tests that exist: the last column of each table whose header ends in `test`.

use std::collections::BTreeSet;
use std::path::Path;

use super::read;
use super::sources::Test;
use crate::process::Outcome;
use crate::testing::LONG_TESTS;

/// Documents with such a table.
const LEDGERS: [&str; 16] = [
    "ARCHITECTURE.md",
    "docs/behaviours.md",
    "docs/delivery.md",
    "docs/first-start.md",
    "docs/from-the-kcl.md",
    "docs/fuzzing.md",
    "docs/hand-over.md",
    "docs/kcl-mode.md",
    "docs/lease.md",
    "docs/ledger.md",
    "docs/models.md",
    "docs/performance.md",
    "docs/promises.md",
    "docs/shard-end.md",
    "docs/state.md",
    "docs/storage.md",
];

/// The faults of all documents.
pub(super) fn faults(tests: &[Test]) -> Outcome<Vec<String>> {
    let names: BTreeSet<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    let mut faults = Vec::new();
    for ledger in LEDGERS {
        faults.extend(ledger_faults(ledger, &read(Path::new(ledger))?, &names));
    }
    let absent = LONG_TESTS.iter().filter(|name| !names.contains(*name));
    faults.extend(
        absent.map(|name| format!("xtask/src/testing/mod.rs: there is no test `{name}` to leave out")),
    );
    Ok(faults)
}

fn ledger_faults(document: &str, text: &str, tests: &BTreeSet<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut in_ledger = false;
    let mut rows = 0;
    for (number, line) in text.lines().enumerate() {
        let Some(cells) = table_cells(line) else {
            in_ledger = false;
            continue;
        };
        let last = cells.last().copied().unwrap_or_default();
        if last == "test" {
            in_ledger = true;
        } else if in_ledger && !last.starts_with("---") {
            rows += 1;
            let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            if named.is_empty() {
                faults.push(format!("{document}:{}: names no test", number + 1));
            }
            for name in named.into_iter().filter(|name| !tests.contains(name)) {
                faults.push(format!("{document}:{}: there is no test `{name}`", number + 1));
            }
        }
    }
    if rows == 0 {
        faults.push(format!("{document}: no table with a last column `test`"));
    }
    faults
}

fn table_cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_names_a_missing_test_is_a_fault() {
        let tests = BTreeSet::from(["there"]);
        let table = "| promise | test |\n| --- | --- |\n| a | `there` |\n| b | `gone` |\n| c | none |\n";
        let faults = ledger_faults("X.md", table, &tests);
        assert_eq!(faults, ["X.md:4: there is no test `gone`", "X.md:5: names no test"]);
        assert_eq!(ledger_faults("X.md", "no table", &tests).len(), 1);
    }
}
