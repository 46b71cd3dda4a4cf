//! Shows pieces of syntax on one line, spaced as rustfmt spaces them.

use quote::ToTokens;

/// The tokens on one line.
pub(super) fn shown(tokens: &impl ToTokens) -> String {
    let spaced = tokens.to_token_stream().to_string();
    let mut shown = String::with_capacity(spaced.len());
    for word in spaced.split_whitespace() {
        if needs_space(&shown, word) {
            shown.push(' ');
        }
        shown.push_str(word);
    }
    // Long lists are written with a comma at their end.
    shown.replace(",)", ")").replace(",>", ">").replace(", }", " }")
}

/// Whether there is a space between the text so far and the next word. A word can be several signs, as `>)`.
fn needs_space(text: &str, next: &str) -> bool {
    const TIGHT_AFTER: [char; 9] = ['(', '[', '&', '#', '<', '!', '\'', '.', '*'];
    const TIGHT_BEFORE: [char; 8] = [')', ']', ',', ';', ':', '?', '.', '>'];
    const KEYWORDS: [&str; 9] = ["for", "dyn", "impl", "mut", "where", "in", "as", "const", "unsafe"];
    if text.is_empty()
        || next.starts_with(TIGHT_BEFORE)
        || text.ends_with(TIGHT_AFTER)
        || text.ends_with("::")
    {
        return false;
    }
    // No space before the bracket of `f(x)`, `Vec<u8>` and `name!(...)`; a space in `-> (A, B)` and `for (A, B)`.
    let is_keyword =
        KEYWORDS.iter().any(|keyword| text == *keyword || text.ends_with(&format!(" {keyword}")));
    let ends_name = text.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '>');
    !next.starts_with(['(', '<', '[', '!']) || !ends_name || text.ends_with("->") || is_keyword
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_shown_as_rustfmt_writes_it() {
        let text = "fn take<'a, T: Into<String>>(&'a mut self, names: &[T], to: Option<(u8, u8)>) -> Result<(), Box<dyn Error + Send>> where T: Clone";
        let signature: syn::Signature = syn::parse_str(text).unwrap();
        assert_eq!(shown(&signature), text);
    }

    #[test]
    fn lists_lose_the_comma_at_their_end() {
        let signature: syn::Signature =
            syn::parse_str("fn take(\n    a: u8,\n    b: u8,\n) -> [u8; 2]").unwrap();
        assert_eq!(shown(&signature), "fn take(a: u8, b: u8) -> [u8; 2]");
    }
}
