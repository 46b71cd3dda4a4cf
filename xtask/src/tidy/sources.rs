//! Checks each source file by itself: its module doc, its size, stray work markers, the names of its tests.

use std::path::Path;

use super::SourceFile;

/// The most lines of a source file.
const MAX_LINES: usize = 800;

/// The most characters of a test's name.
const MAX_TEST_NAME: usize = 60;

/// A test function and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    /// `path:line`.
    place: String,
}

/// The faults of a file.
pub(super) fn faults(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{shown}: a module starts with its doc (//!)"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{shown}: {lines} lines, more than {MAX_LINES}; split it by idea"));
    }
    for (number, line) in text.lines().enumerate() {
        for marker in work_markers() {
            if line.contains(&marker) {
                faults.push(format!("{shown}:{}: a stray {marker}", number + 1));
            }
        }
    }
    faults
}

/// Concatenated at run time, so that this file does not contain them.
fn work_markers() -> [String; 5] {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["#[ign", "ore"]].map(|parts| parts.concat())
}

/// Names that are too long.
pub(super) fn test_name_faults(tests: &[Test]) -> Vec<String> {
    let too_long = tests.iter().filter(|test| test.name.len() > MAX_TEST_NAME);
    too_long
        .map(|test| {
            let (place, length) = (&test.place, test.name.len());
            format!(
                "{place}: the test name has {length} characters, more than {MAX_TEST_NAME}: {}",
                test.name
            )
        })
        .collect()
}

/// All test functions: those after an attribute that ends in `test`, in a `proptest!` block or outside.
pub(super) fn tests(sources: &[SourceFile]) -> Vec<Test> {
    let mut tests = Vec::new();
    for source in sources {
        let mut is_test = false;
        for (number, line) in source.text.lines().map(str::trim).enumerate() {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else if let Some(name) = function_name(line) {
                if is_test {
                    let place = format!("{}:{}", source.path.display(), number + 1);
                    tests.push(Test { name: name.to_owned(), place });
                }
                is_test = false;
            }
        }
    }
    tests
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let source = SourceFile { path: "x.rs".into(), text: text.to_owned() };
        tests(&[source]).into_iter().map(|test| test.name).collect()
    }

    #[test]
    fn finds_tests_in_every_form() {
        let source = "
            #[test]
            fn plain() {}
            #[tokio::test(start_paused = true)]
            async fn paused() {}
            fn helper() {}
            proptest! {
                #[test]
                fn property(x: u8) {}
            }";
        assert_eq!(names(source), ["plain", "paused", "property"]);
    }

    #[test]
    fn a_module_without_doc_and_a_marker_are_faults() {
        let text = format!("fn x() {{ {}) }}", work_markers()[3]);
        assert_eq!(faults(Path::new("x.rs"), &text).len(), 2);
        assert_eq!(faults(Path::new("x.rs"), "//! Doc.\n"), Vec::<String>::new());
    }

    #[test]
    fn a_test_name_above_the_limit_is_a_fault() {
        let test = |length: usize| Test { name: "n".repeat(length), place: "x.rs:1".to_owned() };
        assert_eq!(test_name_faults(&[test(MAX_TEST_NAME)]), Vec::<String>::new());
        assert_eq!(test_name_faults(&[test(MAX_TEST_NAME + 1)]).len(), 1);
    }
}
