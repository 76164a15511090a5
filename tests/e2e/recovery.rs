//! Sessions that fail, turn in circles, or find their machine broken; and edits
//! that land whole or not at all.

use compyd_proto::v1::{SessionState, Workflow, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::torture,
    recovery::{Provider, Tally, bring_about, options},
    repository::sample_script,
    script::{Script, call},
    sessions::{request, story, tools_ended},
    skip::skip,
};
use serde_json::{Value, json};

fn turn(tool: &str, arguments: Value) -> Value {
    json!({"tool_calls": [call(tool, arguments)]})
}

/// These turns, and then the sample's.
fn before_the_sample(turns: impl IntoIterator<Item = Value>) -> Script {
    turns
        .into_iter()
        .enumerate()
        .fold(Script::load(&sample_script()), |script, (index, turn)| {
            script.before_turn(index, turn)
        })
}

#[tokio::test]
async fn a_session_that_turns_in_circles_reasons_changes_and_then_asks() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let run = |command: &str| turn("run_command", json!({"command": command}));
    let again = |command: &'static str| std::iter::repeat_n(command, 3).map(run);
    let turns = again("no-such-program")
        // Refused: it has to reason first.
        .chain([
            run("true"),
            turn(
                "think",
                json!({"content": "why is `no-such-program` not there? test_keeps_the_last_word_when_it_just_fits runs without"}),
            ),
        ])
        .chain(again("no-such-program --help"))
        // Refused: it has to take another way.
        .chain([run("no-such-program --help")])
        .chain(again("ls /nowhere"));
    let script = before_the_sample(turns);
    let id = daemon.play(&script).await;
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(session.state(), SessionState::Waiting, "{}", story(&events));
    let question = session.question.unwrap().text;
    assert!(
        question.contains("turns in circles") && question.contains("/nowhere"),
        "{question}"
    );
    let tools = tools_ended(&events);
    assert!(
        tools[0].content.contains("[COMMAND_NOT_FOUND: "),
        "{}",
        tools[0].content
    );
    assert!(
        tools[3].content.contains("reason first"),
        "{}",
        tools[3].content
    );
    assert!(
        tools[8].content.contains("another way"),
        "{}",
        tools[8].content
    );
    assert_eq!(daemon.compyctl(&["session", "watch", &id]).await.code, 4);

    // A person's words go to the model, and the session goes on.
    let words = "it is called something else; leave it";
    let _ = daemon
        .compyctl(&["session", "answer", &id, "--yes", "--text", words])
        .await
        .expect_code(0);
    let events = daemon.verified(&id).await;
    let told = events.iter().any(|event| match &event.event {
        Some(Event::MessageAdded(said)) => said.from_person && said.text.contains(words),
        _ => false,
    });
    assert!(told, "{}", story(&events));
}

#[tokio::test]
async fn a_broken_machine_is_reported_and_waits_for_a_person() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let report = |blocking: bool| {
        turn(
            "report_environment_issue",
            json!({"issue": "pypi.org is not reached", "tried": "pip download x", "blocking": blocking}),
        )
    };
    let script = before_the_sample([report(false), report(true)]);
    let id = daemon.play(&script).await;
    let session = daemon.rested(&id).await;
    assert_eq!(session.state(), SessionState::Waiting, "{session:?}");
    let question = session.question.unwrap().text;
    assert!(
        question.contains("pypi.org") && question.contains("pip download x"),
        "{question}"
    );
    let _ = daemon
        .compyctl(&["session", "answer", &id, "--yes", "--text", "go on without"])
        .await
        .expect_code(0);
    let events = daemon.verified(&id).await;
    let tools = tools_ended(&events);
    assert!(
        tools[0].content.contains("Recorded"),
        "{}",
        tools[0].content
    );
    assert!(
        tools[1].content.contains("go on without"),
        "{}",
        tools[1].content
    );
}

#[tokio::test]
async fn a_patch_of_several_files_lands_whole_or_not_at_all() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let patch = |lines: &str| {
        let patch = format!("*** Begin Patch\n{lines}*** End Patch\n");
        turn("edit_file", json!({"patch": patch}))
    };
    let script = Script::new()
        .line(turn("read_file", json!({"path": "README.md"})))
        .line(turn(
            "think",
            json!({"content": "README.md says nothing of made.py: two new files are right"}),
        ))
        .line(patch(
            "*** Add File: made.py\n+def f():\n+    return “one”  # two words\n*** Add File: other.js\n+go();\n",
        ))
        .line(patch(
            "*** Update File: made.py\n@@\n-def f():\n+def g():\n*** Update File: other.js\n@@\n-stop();\n+go();\n",
        ))
        // Look-alikes and indentation are passed over; the bracket is missing.
        .line(patch(
            "*** Update File: made.py\n@@\n def f():\n-  return \"one\"  # two words\n+  return (1\n",
        ))
        .line(patch(
            "*** Update File: made.py\n*** Move to: moved.py\n@@\n def f():\n-    return “one”  # two words\n+    return (1\n*** Delete File: other.js\n",
        ))
        .line(turn(
            "edit_file",
            json!({"blocks": "moved.py\n<<<<<<< SEARCH\nreturn (1\n=======\nreturn 1\n>>>>>>> REPLACE\n"}),
        ))
        .says("done")
        .says("done")
        .says("done");
    let mut start = request("w", &script.write(daemon.directory()));
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
    }
    let id = daemon.start_session(start).await;
    daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    let tools = tools_ended(&events);
    let said: Vec<&str> = tools.iter().map(|ended| ended.content.as_str()).collect();
    let [_, _, made, refused, shape, moved, mended] = said[..] else {
        panic!("{}", story(&events));
    };
    assert!(
        made.contains("made.py") && made.contains("other.js"),
        "{made}"
    );
    for part in ["not in other.js", "made.py fit and were not applied"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    // The context line shows that the indentation is not another one throughout.
    assert!(
        shape.contains("nearest place is at lines 1 to 2"),
        "{shape}"
    );
    assert!(
        moved.contains("Moved: ")
            && moved.contains("does not parse")
            && moved.contains("moved.py:"),
        "{moved}"
    );
    assert!(
        mended.contains("1 place") && mended.contains("indentation passed over"),
        "{mended}"
    );
    let left = daemon
        .shell(
            "w",
            "cd /workspace/textkit && cat moved.py; ls made.py other.js 2>&1 | wc -l",
        )
        .await;
    assert_eq!(left.text(), "def f():\n    return 1\n2");
}

/// What `make recovery-report` shows, held to what it has to be.
#[tokio::test]
async fn every_type_of_failure_recovers_or_is_escalated() {
    if !torture() {
        skip("faults of every type take minutes: make torture, or make recovery-report");
        return;
    }
    let provider = Provider::start().await;
    let Some(daemon) = Daemon::start(options(&provider)).await else {
        return;
    };
    let mut tally = Tally::default();
    let mut wrong = String::new();
    bring_about(&daemon, &provider, |outcome| {
        if tally.count(&outcome) == "wrong" {
            wrong += &outcome.story;
        }
    })
    .await;
    eprintln!("{tally}");
    assert!(tally.is_as_it_should(), "{tally}\n{wrong}");
}
