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
    let table: [(&str, &[&str]); 17] = [
        (r#"x 'a b' "c d" e\ f"#, &["a b", "c d", "e f"]),
        ("A='1 2'; x $A \"$A\"", &["1", "2", "1 2"]),
        ("x a{b,c}d \"{e,f}\"", &["abd", "acd", "{e,f}"]),
        ("x a{1..3}b {3..1}", &["a1b", "a2b", "a3b", "3", "2", "1"]),
        ("x {a..e..2} {08..10}", &["a", "c", "e", "08", "09", "10"]),
        ("x {1..100}", &["1", "2", "3", "98", "99", "100"]),
        ("x a{,b} {,c}", &["a", "ab", "c"]),
        ("x {a,b{c,d}}", &["a", "bc", "bd"]),
        ("x r{\"m\",'n'}", &["rm", "rn"]),
        ("A='1 2'; x \"$A\"/{a,b}", &["1 2/a", "1 2/b"]),
        (
            r"x a\{b,c\} {} {x} {a..1}",
            &["a{b,c}", "{}", "{x}", "{a..1}"],
        ),
        ("A={a,b}; x \"$A\"", &["{a,b}"]),
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
        "x {a..Z}",
        "x {a,b}{a,b}{a,b}{a,b}{a,b}{a,b}",
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
