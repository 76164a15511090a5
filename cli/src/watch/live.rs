//! The live view on a terminal: a few lines at the bottom that are drawn anew,
//! with the events' lines scrolling off above.

use compyd_proto::v1::Stage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::Progress;
use crate::output::session::{stage_name, todo_mark, todo_state_name};
use crate::output::{clock, count};
use crate::terminal::{Lines, clipped, colours, printable, size};

/// Stages on the way to the end, in order.
const WAY: [Stage; 8] = [
    Stage::Understand,
    Stage::Plan,
    Stage::Locate,
    Stage::Modify,
    Stage::Validate,
    Stage::Pr,
    Stage::Ci,
    Stage::Complete,
];
/// Most todos shown at once.
const SHOWN_TODOS: usize = 10;

/// The lines at the bottom.
#[derive(Debug)]
pub(super) struct LiveView {
    bar: ProgressBar,
    colours: bool,
}

impl LiveView {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template("{msg}").expect("the template is a constant that parses"),
        );
        LiveView {
            bar,
            colours: colours(true),
        }
    }

    pub(super) fn print_above(&self, line: &str) {
        self.bar.println(line);
    }

    pub(super) fn draw(&self, progress: &Progress) {
        let width = size().columns as usize;
        let mut lines = render(progress, width.saturating_sub(1));
        if self.colours
            && let Some(first) = lines.first_mut()
        {
            *first = format!("\x1b[1m{first}\x1b[0m");
        }
        self.bar.set_message(lines.join("\n"));
        self.bar.tick();
    }

    pub(super) fn clear(&self) {
        self.bar.set_message("");
        self.bar.tick();
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The view's lines, none longer than `width` characters.
fn render(progress: &Progress, width: usize) -> Vec<String> {
    let mut lines = vec![way(progress.stage)];
    let skipped = progress.todos.len().saturating_sub(SHOWN_TODOS);
    if skipped > 0 {
        lines.push(format!("  ... {skipped} more todos"));
    }
    lines.extend(progress.todos.values().skip(skipped).map(|todo| {
        let mark = todo_mark(todo_state_name(todo.state()));
        format!("  {mark} {}. {}", todo.id, todo.text)
    }));
    if let Some((what, since)) = &progress.current {
        lines.push(format!("  {} {what}", clock(since.elapsed())));
    }
    if !progress.tail.trim().is_empty() {
        lines.push(format!("  | {}", progress.tail.trim_end()));
    }
    let tokens = &progress.tokens;
    lines.push(format!(
        "  {}  tokens: {} uncached, {} cached, {} out{}",
        clock(progress.elapsed()),
        count(tokens.input_uncached),
        count(tokens.input_cached),
        count(tokens.output),
        if progress.scripted {
            "  SCRIPTED MODEL"
        } else {
            ""
        }
    ));
    lines
        .into_iter()
        .map(|line| clipped(&printable(&line, Lines::Join).replace('\t', " "), width))
        .collect()
}

/// The way through the stages with the present one in brackets; a detour
/// stands beside the stage it leads back to.
fn way(stage: Stage) -> String {
    let mut names: Vec<String> = WAY
        .iter()
        .map(|step| match *step == stage {
            true => format!("[{}]", stage_name(*step)),
            false => stage_name(*step).to_owned(),
        })
        .collect();
    let detour = |names: &mut Vec<String>, after: Stage| {
        if let Some(position) = WAY.iter().position(|step| *step == after) {
            names.insert(position + 1, format!("[{}]", stage_name(stage)));
        }
    };
    match stage {
        Stage::Debug => detour(&mut names, Stage::Validate),
        Stage::Iterate => detour(&mut names, Stage::Ci),
        Stage::Failed => names.push("[FAILED]".into()),
        Stage::Unspecified
        | Stage::Understand
        | Stage::Plan
        | Stage::Locate
        | Stage::Modify
        | Stage::Validate
        | Stage::Pr
        | Stage::Ci
        | Stage::Complete => {}
    }
    names.join(" > ")
}

#[cfg(test)]
mod tests {
    use compyd_proto::v1::{Session, Todo, TodoState};

    use super::*;

    #[test]
    fn the_present_stage_is_marked_and_detours_stand_in_place() {
        assert!(way(Stage::Plan).starts_with("UNDERSTAND > [PLAN] > LOCATE"));
        assert!(way(Stage::Debug).contains("VALIDATE > [DEBUG] > PR"));
        assert!(way(Stage::Failed).ends_with("> [FAILED]"));
    }

    #[test]
    fn the_view_fits_its_width_and_shows_todos_with_their_marks() {
        let mut progress = Progress::new(&Session::default());
        for id in 1..=12 {
            progress.todos.insert(
                id,
                Todo {
                    id,
                    text: "a todo\nwith lines ".repeat(20),
                    state: TodoState::Verified.into(),
                    ..Todo::default()
                },
            );
        }
        let lines = render(&progress, 40);
        assert_eq!(lines.len(), 1 + 1 + 10 + 1);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 40),
            "{lines:?}"
        );
        assert!(lines[2].starts_with("  [x] 3. a todo with"), "{}", lines[2]);
    }
}
