//! Each rule by itself.

use super::*;

fn modify(path: &str, blocks: Vec<Block>) -> FileChange {
    FileChange {
        path: path.into(),
        change: Change::Modify {
            blocks,
            move_to: None,
        },
    }
}

fn planned(text: &str, blocks: &[Block]) -> Result<String, RefusalKind> {
    plan("f", text, blocks)
        .map(|planned| planned.text)
        .map_err(|refusal| refusal.kind)
}

fn one(text: &str, block: Block) -> Result<String, RefusalKind> {
    planned(text, &[block])
}

#[test]
fn an_exact_text_is_replaced_inside_lines_and_across_them() {
    assert_eq!(
        one("a = f(x)\n", Block::text("f(x)", "g(x)")),
        Ok("a = g(x)\n".into())
    );
    assert_eq!(
        one("a\nb\nc\n", Block::text("a\nb", "d")),
        Ok("d\nc\n".into())
    );
}

#[test]
fn a_text_that_would_cut_a_word_does_not_fit_unless_all_are_meant() {
    assert_eq!(
        one("max = 10\n", Block::text("x = 1", "x = 2")),
        Err(RefusalKind::NotFound)
    );
    let all = Block {
        all: true,
        ..Block::text("foo_", "bar_")
    };
    assert_eq!(one("foo_a foo_b\n", all), Ok("bar_a bar_b\n".into()));
}

#[test]
fn a_text_with_indentation_is_not_meant_for_a_line_that_is_deeper() {
    let text = "if a:\n        go()\n";
    let fit = plan("f", text, &[Block::text("    go()", "    stop()")]).unwrap();
    assert_eq!(fit.tolerance, Tolerance::Indentation);
    assert_eq!(fit.text, "if a:\n        stop()\n");
}

#[test]
fn lines_fit_where_lines_begin_and_end() {
    assert_eq!(
        one("ab = 1\nb = 1\n", Block::lines("b = 1\n", "b = 2\n")),
        Ok("ab = 1\nb = 2\n".into())
    );
    assert_eq!(
        one("b = 12\n", Block::lines("b = 1\n", "b = 2\n")),
        Err(RefusalKind::NotFound)
    );
}

#[test]
fn two_places_are_refused_with_their_lines_and_overlapping_ones_are_two() {
    let refusal = plan("f", "x\ny\nx\n", &[Block::lines("x\n", "z\n")]).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::ManyPlaces);
    assert!(refusal.message.contains("lines 1, 3"), "{refusal}");
    assert_eq!(
        one("--\n--\n--\n", Block::text("--\n--\n", "+")),
        Err(RefusalKind::ManyPlaces)
    );
    let all = Block {
        all: true,
        ..Block::text("x", "z")
    };
    assert_eq!(one("x\ny\nx\n", all), Ok("z\ny\nz\n".into()));
}

#[test]
fn the_first_tolerance_at_which_anything_fits_decides() {
    let text = "if a:\n    go()  \nif b:\n        go()\n";
    let fit = plan("f", text, &[Block::lines("    go()\n", "    stop()\n")]).unwrap();
    assert_eq!(fit.tolerance, Tolerance::TrailingSpace);
    assert_eq!(fit.text, "if a:\n    stop()\nif b:\n        go()\n");
    // Without any indentation both lines fit equally well.
    assert_eq!(
        one(text, Block::lines("  go()\n", "  stop()\n")),
        Err(RefusalKind::ManyPlaces)
    );
}

#[test]
fn lines_that_are_repeated_stay_the_files_own() {
    let text = "s = “curly”  \r\nold()\r\n";
    assert_eq!(
        one(
            text,
            Block::lines("s = \"curly\"\nold()\n", "s = \"curly\"\nnew()\n")
        ),
        Ok("s = “curly”  \r\nnew()\r\n".into())
    );
}

#[test]
fn indentation_is_carried_over_to_new_lines() {
    let text = "class A:\n    def f(self):\n        return 1\n";
    assert_eq!(
        one(
            text,
            Block::lines(
                "def f(self):\n    return 1\n",
                "def f(self):\n    if self:\n        return 2\n    return 1\n"
            )
        ),
        Ok("class A:\n    def f(self):\n        if self:\n            return 2\n        return 1\n".into())
    );
    assert_eq!(
        one(
            "{\n\tif (a) {\n\t\tgo();\n\t}\n}\n",
            Block::lines(
                "    if (a) {\n        go();\n",
                "    if (a) {\n        stop();\n        go();\n"
            )
        ),
        Ok("{\n\tif (a) {\n\t\tstop();\n\t\tgo();\n\t}\n}\n".into())
    );
    // One line deeper than the other: that is another shape.
    assert_eq!(
        one(text, Block::lines("def f(self):\nreturn 1\n", "x\n")),
        Err(RefusalKind::NotFound)
    );
}

#[test]
fn a_last_line_without_its_end_stays_so() {
    assert_eq!(one("a\nb", Block::lines("b\n", "c\n")), Ok("a\nc".into()));
}

#[test]
fn blocks_see_the_file_as_it_is_and_not_each_other() {
    let blocks = [Block::lines("a\n", "b\n"), Block::lines("b\n", "c\n")];
    assert_eq!(planned("a\nb\n", &blocks), Ok("b\nc\n".into()));
    assert_eq!(planned("a\n", &blocks), Err(RefusalKind::NotFound));
    let over = [Block::lines("a\nb\n", "x\n"), Block::lines("b\nc\n", "y\n")];
    assert_eq!(planned("a\nb\nc\n", &over), Err(RefusalKind::Overlap));
}

#[test]
fn a_refusal_shows_the_nearest_place_and_what_fits() {
    let text = "def f():\n    total = 0\n    for x in xs:\n        total += x\n    return total\n";
    let blocks = [
        Block::lines("    total = 0\n", "    total = 1\n"),
        Block::lines(
            "    for x in xs:\n        total -= x\n    return total\n",
            "    pass\n",
        ),
    ];
    let refusal = plan("src/a.py", text, &blocks).unwrap_err();
    for part in [
        "block 2 of 2",
        "src/a.py",
        "lines 3 to 5 (1 of 3 lines differ",
        "!4\t        total += x",
        " 5\t    return total",
        "Block 1 fits, and was not applied",
    ] {
        assert!(refusal.message.contains(part), "{part}: {refusal}");
    }
    let refusal = plan("a", text, &[Block::text("    totl = O", "x")]).unwrap_err();
    assert!(refusal.message.contains("!2\t    total = 0"), "{refusal}");
    let refusal = plan("a", text, &[Block::text("zzz", "x")]).unwrap_err();
    assert!(refusal.message.contains("Nothing in the file"), "{refusal}");
}

#[test]
fn words_for_code_left_out_are_never_written() {
    let text = "def f():\n    a()\n    b()\n";
    let new = "def f():\n    # ... rest of the code unchanged ...\n";
    assert_eq!(one(text, Block::text(text, new)), Err(RefusalKind::Elided));
    assert!(check_whole("f", Some(text), "// ... existing code ...\n").is_err());
    assert!(check_whole("f", Some(text), "# The rest stays unchanged\n").is_err());
    for code in [
        "x = [*a, ...]\n",
        "class A: ...\n",
        "def f():\n    ...\n",
        "const {a, ...rest} = b;\n",
        "  ...rest,\n",
        "// the rest of the items are sorted later\nsort(items);\n",
        "// see https://a/...\n",
        "# previous versions lacked this\n",
        "log.info('waiting...')\n",
    ] {
        assert_eq!(check_whole("f", Some(text), code), Ok(()), "{code}");
    }
    // A line that was there before may stay.
    let odd = "# ... existing code ...\nx\n";
    assert_eq!(
        one(odd, Block::text(odd, "# ... existing code ...\ny\n")),
        Ok("# ... existing code ...\ny\n".into())
    );
    let refusal = plan(
        "f",
        text,
        &[Block::lines("def f():\n...\n    b()\n", "x\n")],
    )
    .unwrap_err();
    assert!(refusal.message.contains("left out"), "{refusal}");
}

#[test]
fn an_edit_that_changes_nothing_is_said_to() {
    assert_eq!(
        one("a \n", Block::lines("a\n", "a\n")),
        Err(RefusalKind::Unchanged)
    );
}

#[test]
fn anchors_narrow_the_place_down_to_their_scope() {
    let text =
        "class A:\n    def f(self):\n        go()\n\nclass B:\n    def f(self):\n        go()\n";
    let go = |anchors: &[&str]| Block {
        anchors: anchors.iter().map(|anchor| (*anchor).to_owned()).collect(),
        ..Block::lines("        go()\n", "        stop()\n")
    };
    assert_eq!(one(text, go(&[])), Err(RefusalKind::ManyPlaces));
    assert_eq!(
        one(text, go(&["class B:", "def f(self):"])),
        Ok(format!("{}        stop()\n", &text[..text.len() - 13]))
    );
    assert_eq!(one(text, go(&["class C:"])), Err(RefusalKind::NotFound));
}

#[test]
fn blocks_between_markers_are_read() {
    let text = "Here it is:\nsrc/a.py\n```python\n<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n```\n<<<<<<< SEARCH\nc\n=======\n>>>>>>> REPLACE\nnew.py\n<<<<<<< SEARCH\n=======\nx\n>>>>>>> REPLACE\n";
    assert_eq!(
        parse_blocks(text),
        Ok(vec![
            modify(
                "src/a.py",
                vec![Block::lines("a\n", "b\n"), Block::lines("c\n", "")]
            ),
            FileChange {
                path: "new.py".into(),
                change: Change::Create {
                    content: "x\n".into()
                },
            },
        ])
    );
    for wrong in [
        "",
        "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n",
        "f\n<<<<<<< SEARCH\na\n=======\nb\n",
        "f\n<<<<<<< SEARCH\na\n=======\nb\n=======\nc\n>>>>>>> REPLACE\n",
        "f\n=======\n",
    ] {
        let kind = parse_blocks(wrong).unwrap_err().kind;
        assert_eq!(kind, RefusalKind::Malformed, "{wrong}");
    }
}

#[test]
fn a_unified_diff_is_read_whatever_its_numbers_say() {
    let text = "diff --git a/f.sql b/f.sql\nindex 1..2 100644\n--- a/f.sql\n+++ b/f.sql\n@@ -90,3 +1,2 @@ where\n a\n--- drop\n+++ keep\n\n b\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-y\n";
    let parsed = parse_unified(text).unwrap();
    assert_eq!(
        parsed[0],
        modify(
            "f.sql",
            vec![Block::lines("a\n-- drop\n\nb\n", "a\n++ keep\n\nb\n")]
        )
    );
    assert_eq!(
        parsed[1].change,
        Change::Create {
            content: "x".into()
        }
    );
    assert_eq!(
        (parsed[2].path.as_str(), &parsed[2].change),
        ("gone", &Change::Delete)
    );
    let renamed = parse_unified("diff --git a/x b/y\nrename from x\nrename to y\n").unwrap();
    assert!(
        matches!(&renamed[0].change, Change::Modify { blocks, move_to: Some(to) } if blocks.is_empty() && to == "y")
    );
    for wrong in [
        "@@ -1 +1 @@\n-a\n+b\n",
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\nprose\n",
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n a\n",
        "--- a/f\n+++ b/f\n",
    ] {
        assert!(parse_unified(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_envelope_is_read() {
    let text = "apply_patch <<'EOF'\n*** Begin Patch\n*** Update File: a.py\n*** Move to: b.py\n@@ class A:\n@@     def f(self):\n go\n-old\n+new\n@@\n-last\n+end\n*** End of File\n\n*** Add File: c\n+x\n+\n*** Delete File: d\n*** End Patch\nEOF\n";
    let parsed = parse_envelope(text).unwrap();
    let first = Block {
        anchors: vec!["class A:".into(), "def f(self):".into()],
        ..Block::lines("go\nold\n", "go\nnew\n")
    };
    let last = Block {
        at_end: true,
        ..Block::lines("last\n", "end\n")
    };
    assert_eq!(
        parsed[0].change,
        Change::Modify {
            blocks: vec![first, last],
            move_to: Some("b.py".into())
        }
    );
    assert_eq!(
        parsed[1].change,
        Change::Create {
            content: "x\n\n".into()
        }
    );
    assert_eq!(parsed[2].change, Change::Delete);
    for wrong in [
        "*** Update File: a\n-x\n+y\n",
        "*** Begin Patch\n*** End Patch\n",
        "*** Begin Patch\n*** Update File: a\n*** End Patch\n",
        "*** Begin Patch\n*** Update File: a\nx\n*** End Patch\n",
        "*** Begin Patch\n*** Update File: a\n-x\n*** Delete File: a\n*** End Patch\n",
        "*** Begin Patch\n*** Add File: a\nx\n*** End Patch\n",
    ] {
        assert!(parse_envelope(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn lines_alone_go_nowhere_but_to_the_end_when_it_is_named() {
    let add = Block::lines("", "x\n");
    assert_eq!(one("a\n", add.clone()), Err(RefusalKind::NotFound));
    let at_end = Block {
        at_end: true,
        ..add.clone()
    };
    assert_eq!(one("a", at_end.clone()), Ok("a\nx\n".into()));
    assert_eq!(one("a\n", at_end), Ok("a\nx\n".into()));
    assert_eq!(one("", add), Ok("x\n".into()));
}

#[test]
fn the_first_pattern_that_fits_a_model_names_its_format() {
    let formats = EditFormats {
        own: vec![
            ("openai:gpt-4o".into(), EditFormat::Diff),
            ("anthropic:*".into(), EditFormat::Blocks),
        ],
    };
    for (model, format) in [
        ("openai:gpt-4o", EditFormat::Diff),
        ("openai:gpt-5", EditFormat::Patch),
        ("anthropic:any", EditFormat::Blocks),
        ("openai:llama", EditFormat::Replace),
        ("scripted:/a", EditFormat::Replace),
    ] {
        assert_eq!(formats.of(model), format, "{model}");
    }
}

#[test]
fn a_line_without_its_indentation_gives_it_to_lines_that_come_after_it() {
    let block = Block::text("x = 1", "x = 1\ny = 2");
    let within = "def f():\n    x = 1\n    return x\n";
    let planned = plan("f", within, std::slice::from_ref(&block)).unwrap();
    assert_eq!(
        planned.text,
        "def f():\n    x = 1\n    y = 2\n    return x\n"
    );
    assert_eq!(planned.tolerance, Tolerance::Indentation);
    // At the end of a block both may be meant.
    for after in ["", "\ndef g():\n    pass\n"] {
        let text = format!("def f():\n    x = 1\n{after}");
        let refusal = plan("f", &text, std::slice::from_ref(&block)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Indentation);
        assert!(refusal.message.contains("line 2"), "{}", refusal.message);
    }
    // What says where it goes is taken as it is.
    for new in [
        "x = 1\n    y = 2",
        "x = 1\n\n",
        "x = 2",
        "x = [\n        1]",
    ] {
        let planned = plan("f", within, &[Block::text("x = 1", new)]).unwrap();
        let wanted = within.replace("x = 1", new);
        assert_eq!(planned.text, wanted);
        assert_eq!(planned.tolerance, Tolerance::Exact);
    }
}

#[test]
fn lines_that_say_both_are_refused_and_an_exact_place_is_the_place() {
    let refused = |text: &str, old: &str, new: &str| {
        let refusal = plan("f", text, &[Block::text(old, new)]).unwrap_err();
        assert_eq!(
            refusal.kind,
            RefusalKind::Indentation,
            "{}",
            refusal.message
        );
    };
    // A function is split here: some lines carry the indentation.
    let text = "def f():\n    x = load()\n    print(x)\n";
    refused(text, "x = load()", "x = load()\n    return x\n\ndef g(x):");
    for (old, new) in [("x = 1", "x = 1\ny = 2\n"), ("x = 1\n", "x = 1\ny = 2")] {
        refused("    x = 1\n    return x", old, new);
    }
    // A line elsewhere that is nearly the same is not the place.
    let text = "x = 1  \ndef f():\n    x = 1\n    return x\n";
    let planned = plan("f", text, &[Block::text("x = 1\n", "x = 1\ny = 2\n")]).unwrap();
    let wanted = "x = 1  \ndef f():\n    x = 1\n    y = 2\n    return x\n";
    assert_eq!(planned.text, wanted);
    // Of all places each is taken by itself.
    let all = Block {
        all: true,
        ..Block::text("debugger;", "")
    };
    let planned = plan("f", "    debugger;\n  foo(); debugger;\n", &[all]).unwrap();
    assert_eq!(planned.text, "\n  foo(); \n");
}
