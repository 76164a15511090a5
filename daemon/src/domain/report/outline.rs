//! Names of tests that are printed as an indented outline below their suites.

/// The suites that a line is below, by indentation.
#[derive(Debug, Default)]
pub(super) struct Outline {
    suites: Vec<(usize, String)>,
}

impl Outline {
    /// A suite's heading.
    pub(super) fn enter(&mut self, indent: usize, title: &str) {
        self.leave(indent);
        self.suites.push((indent, title.trim().to_owned()));
    }

    /// The full name of a test at this indentation.
    pub(super) fn name(&mut self, indent: usize, title: &str) -> String {
        self.leave(indent);
        let mut name = String::new();
        for (_, suite) in &self.suites {
            name.push_str(suite);
            name.push_str(" > ");
        }
        name + title.trim()
    }

    /// Forgets suites that are not above this indentation.
    fn leave(&mut self, indent: usize) {
        while self.suites.last().is_some_and(|(at, _)| *at >= indent) {
            self.suites.pop();
        }
    }
}

/// Leading blanks of a line.
pub(super) fn indent(line: &str) -> usize {
    line.chars().take_while(|c| *c == ' ').count()
}
