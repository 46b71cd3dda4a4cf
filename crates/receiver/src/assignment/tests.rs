//! Examples for each rule.
