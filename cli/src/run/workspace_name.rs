//! A workspace's name from a repository's. Pure.

/// Longest name the daemon takes.
const MAX_LENGTH: usize = 63;
/// Where [`candidates`] gives up.
pub(crate) const LAST_NUMBER: u32 = 999;

/// A valid workspace name that resembles `repository`: lower case, anything
/// not allowed becomes a hyphen, at most 63 characters.
pub(crate) fn derive(repository: &str) -> String {
    let mut name = String::new();
    for c in repository.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            c @ ('.' | '_') if !name.is_empty() => name.push(c),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.truncate(MAX_LENGTH);
    let name = name.trim_end_matches(['-', '.', '_']);
    if name.is_empty() {
        "repository".to_owned()
    } else {
        name.to_owned()
    }
}

/// `NAME`, `NAME-2`, `NAME-3` and so on, each at most 63 characters.
pub(crate) fn candidates(base: &str) -> impl Iterator<Item = String> {
    let base = base.to_owned();
    (1..=LAST_NUMBER).map(move |number| {
        if number == 1 {
            return base.clone();
        }
        let suffix = format!("-{number}");
        let kept = base.len().min(MAX_LENGTH - suffix.len());
        format!("{}{suffix}", &base[..kept])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_repository_name_becomes_a_valid_workspace_name() {
        assert_eq!(derive("python-slugify"), "python-slugify");
        assert_eq!(derive("My Repo (1)"), "my-repo-1");
        assert_eq!(derive(".dotfiles"), "dotfiles");
        assert_eq!(derive("Ünïcode"), "n-code");
        assert_eq!(derive("日本"), "repository");
        assert_eq!(derive(&"x".repeat(300)).len(), 63);
    }

    #[test]
    fn numbered_names_stay_within_the_limit() {
        let names: Vec<_> = candidates("a").take(3).collect();
        assert_eq!(names, ["a", "a-2", "a-3"]);
        let long = candidates(&"x".repeat(63)).nth(9).unwrap();
        assert_eq!(long, format!("{}-10", "x".repeat(60)));
    }
}
