//! What is read of lines, whole.

use super::*;

fn shown(line: &str) -> (Vec<String>, Vec<String>) {
    let reading = read(line, "/workspace/r");
    let commands = reading.commands.iter().map(SimpleCommand::shown).collect();
    (commands, reading.doubts)
}

#[test]
fn wrappers_are_followed_to_what_they_run() {
    let (commands, doubts) =
        shown("sudo -u x env A=1 timeout 5 sh -c 'ls \"$1\"' sh y | xargs -I{} mv {} z");
    let wanted = [
        "sudo -u x env A=1 timeout 5 sh -c ls \"$1\" sh y",
        "env A=1 timeout 5 sh -c ls \"$1\" sh y",
        "timeout 5 sh -c ls \"$1\" sh y",
        "sh -c ls \"$1\" sh y",
        "ls y",
        "xargs -I{} mv {} z",
        "mv WORDS z",
    ];
    assert_eq!(commands, wanted);
    assert!(doubts.is_empty(), "{doubts:?}");
}

#[test]
fn words_are_expanded_as_far_as_they_are_certain() {
    let words = |line: &str| {
        let reading = read(line, "/workspace/r");
        let last = reading.commands.last().unwrap().clone();
        let texts = last.argv.iter().map(|word| (word.text.clone(), word.exact));
        texts.skip(1).collect::<Vec<_>>()
    };
    let exact = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| ((*text).to_owned(), true))
            .collect::<Vec<_>>()
    };
    let table: [(&str, &[&str]); 8] = [
        (r#"x 'a b' "c d" e\ f"#, &["a b", "c d", "e f"]),
        ("A='1 2'; x $A \"$A\"", &["1", "2", "1 2"]),
        ("x a{b,c}d \"{e,f}\"", &["abd", "acd", "{e,f}"]),
        (r"x $'\x61\142\u0063\n'", &["abc\n"]),
        ("x \"$HOME/y\" ${PWD}", &["~/y", "/workspace/r"]),
        ("x ''", &[""]),
        ("x \"a\\\"b\\$c\"", &["a\"b$c"]),
        ("x a'b'\"c\"d", &["abcd"]),
    ];
    for (line, texts) in table {
        assert_eq!(words(line), exact(texts), "{line}");
    }
    for line in [
        "x $UNKNOWN",
        "x ${A:-b}",
        "x $(date)",
        "x $((1+1))",
        "A=1; A=2; x $A",
        "true && A=1; x $A",
    ] {
        assert!(words(line).iter().all(|(_, exact)| !exact), "{line}");
    }
}

#[test]
fn directories_are_those_it_may_be_in() {
    let directories = |line: &str| {
        read(line, "/workspace/r")
            .commands
            .last()
            .unwrap()
            .directories
            .clone()
    };
    assert_eq!(directories("cd a && ls"), ["/workspace/r/a"]);
    assert_eq!(directories("cd a; ls"), ["/workspace/r/a", "/workspace/r"]);
    assert_eq!(directories("(cd a); ls"), ["/workspace/r"]);
    assert_eq!(directories("cd ~/b && ls"), ["~/b"]);
    assert!(directories("cd $X && ls").is_empty());
    assert_eq!(directories("cd $X; cd /a && ls"), ["/a"]);
}

#[test]
fn paths_are_made_absolute_without_leaving_the_root() {
    for (path, from, wanted) in [
        ("a/../b", "/w/r", "/w/r/b"),
        ("../../../x", "/w/r", "/x"),
        ("/a//b/.", "/w", "/a/b"),
        ("~/a/../..", "/w", "/"),
        ("x", "~/y", "~/y/x"),
        ("~other/x", "/w", "/home-of-other/x"),
    ] {
        assert_eq!(absolute(path, from), wanted, "{path} from {from}");
    }
}
