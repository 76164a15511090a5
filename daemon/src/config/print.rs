//! The configuration as files for people: a documented sample, and what counts
//! now.

use std::fmt::Write as _;

use super::{
    Settings,
    keys::{Default, KEYS, Key, Values},
};

/// A file with every key, its default and what it is; all commented out.
#[must_use]
pub fn sample() -> String {
    let mut text = String::from(
        "# Configuration of compyd. Everything here is optional.\n\
         # Flags win over the environment, which wins over this file.\n",
    );
    by_table(&mut text, |text, key, name| {
        let _ = writeln!(text, "\n# {}", key.about);
        let _ = writeln!(text, "# In the environment: {}", key.variable());
        let _ = match key.default {
            Default::Fixed(value) => {
                writeln!(text, "#{name} = {}", literal(&[value.to_owned()], key))
            }
            Default::Unset => writeln!(text, "#{name} = \"\"  # unset by default"),
            Default::Derived(words) => writeln!(text, "#{name} = \"\"  # default: {words}"),
        };
    });
    text
}

/// Every key that has a value, with the value and its source; secrets hidden.
#[must_use]
pub fn effective(settings: &Settings) -> String {
    let mut text = String::from("# The configuration that counts.\n");
    by_table(&mut text, |text, key, name| {
        let _ = match settings
            .origins
            .iter()
            .find(|origin| origin.key == key.name)
        {
            Some(origin) => writeln!(
                text,
                "{name} = {}  # {}",
                literal(&origin.values, key),
                origin.source
            ),
            None => writeln!(text, "# {name} is unset"),
        };
    });
    text
}

/// Calls `line` for each key with its name within its table, below a heading
/// for each table.
fn by_table(text: &mut String, line: impl Fn(&mut String, &Key, &str)) {
    let mut current = "";
    for key in KEYS {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if table != current {
            let _ = writeln!(text, "\n[{table}]");
            current = table;
        }
        line(text, key, name);
    }
}

fn literal(values: &[String], key: &Key) -> String {
    let quoted: Vec<String> = values
        .iter()
        .map(|value| toml::Value::String(value.clone()).to_string())
        .collect();
    match key.values {
        Values::One => quoted.join(", "),
        Values::Many => format!("[{}]", quoted.join(", ")),
    }
}
