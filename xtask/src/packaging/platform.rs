//! The platform of a program, in the words of both package indexes. Pure.

use crate::process::Outcome;

/// The oldest macOS for which Rust builds, for each processor.
const MACOS: [(&str, &str); 2] = [("x86_64", "10_12"), ("aarch64", "11_0")];

/// The version of musl that Rust links, which programs carry in themselves.
const MUSL: &str = "1_2";

/// The platform of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    /// The last part of the tag of a wheel.
    pub(super) wheel: String,
    /// The last part of the name of the package for npm.
    pub(super) npm: String,
    /// The name of the operating system in Node.js.
    pub(super) os: &'static str,
    /// The name of the processor in Node.js.
    pub(super) cpu: &'static str,
    /// The C library, in the word of npm.
    pub(super) libc: Option<&'static str>,
}

impl Platform {
    /// The platform of a program for a target of Rust that needs this version of glibc.
    pub(super) fn of(target: &str, glibc: Option<(u32, u32)>) -> Outcome<Self> {
        let unknown = || format!("no package is known for a program for {target}; add it to {}", file!());
        let (processor, system) = target.split_once('-').ok_or_else(unknown)?;
        let (cpu, of_macos) = match processor {
            "x86_64" => ("x64", "x86_64"),
            "aarch64" => ("arm64", "arm64"),
            _ => return Err(unknown()),
        };
        let (wheel, library, os, libc) = match (system, glibc) {
            ("unknown-linux-gnu", Some((major, minor))) => {
                (format!("manylinux_{major}_{minor}_{processor}"), "-gnu", "linux", Some("glibc"))
            }
            ("unknown-linux-musl", None) => {
                (format!("musllinux_{MUSL}_{processor}"), "-musl", "linux", Some("musl"))
            }
            ("apple-darwin", None) => {
                let version =
                    MACOS.iter().find(|(of, _)| *of == processor).map_or("11_0", |(_, version)| version);
                (format!("macosx_{version}_{of_macos}"), "", "darwin", None)
            }
            _ => return Err(unknown()),
        };
        Ok(Self { wheel, npm: format!("{os}-{cpu}{library}"), os, cpu, libc })
    }
}

/// The newest version of glibc that a program names. The names are texts of their own in its table of strings, so that a system with
/// an older one refuses to start it.
pub(super) fn glibc_version(program: &[u8]) -> Option<(u32, u32)> {
    let texts = program.split(|byte| *byte == 0);
    let versions = texts.filter_map(|text| text.strip_prefix(b"GLIBC_"));
    versions.filter_map(|version| parse(std::str::from_utf8(version).ok()?)).max()
}

/// `2.34`, or `2.2.5` as 2.2.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_glibc_decides_over_the_order_of_names() {
        let program =
            b"\x7fELF\0libc.so.6\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0needs GLIBC_2.99\0";
        assert_eq!(glibc_version(program), Some((2, 34)));
        assert_eq!(glibc_version(b"\x7fELF\0static\0"), None);
    }

    #[test]
    fn platforms_have_the_words_of_both_indexes() {
        for (target, glibc, wheel, npm) in [
            ("x86_64-unknown-linux-gnu", Some((2, 34)), "manylinux_2_34_x86_64", "linux-x64-gnu"),
            ("aarch64-unknown-linux-gnu", Some((2, 17)), "manylinux_2_17_aarch64", "linux-arm64-gnu"),
            ("x86_64-unknown-linux-musl", None, "musllinux_1_2_x86_64", "linux-x64-musl"),
            ("x86_64-apple-darwin", None, "macosx_10_12_x86_64", "darwin-x64"),
            ("aarch64-apple-darwin", None, "macosx_11_0_arm64", "darwin-arm64"),
        ] {
            let platform = Platform::of(target, glibc).unwrap();
            assert_eq!((&*platform.wheel, &*platform.npm), (wheel, npm), "{target}");
        }
        for target in ["x86_64-pc-windows-msvc", "riscv64gc-unknown-linux-gnu", "x86_64-unknown-linux-gnu"] {
            assert!(Platform::of(target, None).is_err(), "{target}");
        }
    }

    #[test]
    fn main_package_lists_each_platform() {
        let manifest = include_str!("../../../packaging/npm/package.json");
        for (target, glibc) in [
            ("x86_64-unknown-linux-gnu", Some((2, 34))),
            ("aarch64-unknown-linux-gnu", Some((2, 34))),
            ("x86_64-unknown-linux-musl", None),
            ("aarch64-unknown-linux-musl", None),
            ("x86_64-apple-darwin", None),
            ("aarch64-apple-darwin", None),
        ] {
            let name = format!("\"@kinesis-streaming/{}\"", Platform::of(target, glibc).unwrap().npm);
            assert!(manifest.contains(&name), "{name}");
        }
    }
}
