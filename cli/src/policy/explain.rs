//! `compyctl policy explain`.

use clap::Args;
use compyd_proto::v1::{ExplainPolicyRequest, PolicyRuling};
use serde::Serialize;

use super::{LevelName, decision_name, level_name, tier_name};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json};

/// `compyctl policy explain -- COMMAND`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// Level of the session that would run it.
    #[arg(long, value_enum, default_value = "admin")]
    level: LevelName,
    /// Autonomy of the session that would run it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=3), default_value = "3", value_name = "N")]
    autonomy: u32,
    /// Where it would run; default: the repository.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    cwd: String,
    /// The command. One word is a line for a shell; several are a program and its
    /// arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The result in JSON.
#[derive(Debug, Serialize)]
struct ExplainView {
    /// `allow`, `ask` or `deny`.
    decision: String,
    /// `low`, `medium` or `high`.
    risk: String,
    /// What the command does, in order.
    acts: Vec<ActView>,
    /// The policy file in use; empty for the daemon's own rules alone.
    file: String,
    /// Why the file as it is now is not in use; empty when it is.
    reload_problem: String,
}

/// One of the commands that a line runs, in JSON.
#[derive(Debug, Serialize)]
struct ActView {
    /// The command.
    act: String,
    /// `allow`, `ask` or `deny`.
    decision: String,
    /// `low`, `medium` or `high`.
    risk: String,
    /// `read`, `write` or `admin`.
    level: String,
    /// The rule that decided; empty where none did.
    rule: String,
    /// Why.
    why: String,
}

impl From<PolicyRuling> for ActView {
    fn from(ruling: PolicyRuling) -> Self {
        ActView {
            decision: decision_name(ruling.decision()).to_owned(),
            risk: tier_name(ruling.tier()).to_owned(),
            level: level_name(ruling.level()).to_owned(),
            act: ruling.act,
            rule: ruling.rule,
            why: ruling.why,
        }
    }
}

impl ExplainArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let command = match self.command.as_slice() {
            [line] => line.clone(),
            words => shell_words::join(words),
        };
        let request = ExplainPolicyRequest {
            command,
            directory: self.cwd,
            level: self.level.to_wire().into(),
            autonomy: Some(self.autonomy),
        };
        let daemon = context.daemon().await?;
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.policies(), request.clone());
                async move { client.explain_policy(request).await }
            })
            .await?;
        let view = ExplainView {
            decision: decision_name(response.decision()).to_owned(),
            risk: tier_name(response.tier()).to_owned(),
            acts: response.rulings.into_iter().map(Into::into).collect(),
            file: response.file,
            reload_problem: response.reload_problem,
        };
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => print(&table(&view))?,
        }
        Ok(Exit::OK)
    }
}

fn table(view: &ExplainView) -> String {
    let mut text = format!("{}, {} risk\n", view.decision, view.risk);
    for act in &view.acts {
        text.push_str(&format!(
            "  {:<5} {}\n        {} risk, needs {}: {}\n",
            act.decision, act.act, act.risk, act.level, act.why
        ));
    }
    if !view.reload_problem.is_empty() {
        text.push_str(&format!(
            "the file is not in use as it is now: {}\n",
            view.reload_problem
        ));
    }
    text
}
