//! Sessions, with the models, the forge and the rules that they are given.

use std::sync::Arc;

use super::{AppError, parts::Parts};
#[cfg(feature = "test-util")]
use crate::adapters::forge::lossy::LossyForge;
use crate::{
    adapters::{forge::local::LocalForge, model},
    api::grpc::session::SessionDefaults,
    config::Settings,
    domain::{recovery::Catalogue, session::options::SessionLimits},
    ports::{forge::ForgePort, store::StorePort},
    service::{
        artifacts::Artifacts,
        ci::LocalCi,
        commands::Commands,
        git::BundleSpace,
        policies::Policies,
        proof::Prover,
        redaction::Redactions,
        sessions::{Gatekeeper, ModelFactory, Patience, SessionSettings, Sessions, World},
        workspaces::Workspaces,
    },
};

/// The rules, which are read again whenever their file changes.
pub(super) async fn policies(settings: &Settings, parts: &Parts) -> Result<Policies, AppError> {
    let policies = Policies::open(settings.session.policy_file.clone())?;
    policies.set_copy(settings.data_dir.join("policy.on-record"));
    policies.record_start(&parts.audit).await?;
    let (watched, audit) = (policies.clone(), parts.audit.clone());
    // On cancel: nothing is under way that matters.
    parts.keep(|stop| async move { watched.reload_when_changed(audit, stop).await });
    Ok(policies)
}

/// Sessions and the parts of the world that they act on.
pub(super) fn sessions(
    settings: &Settings,
    parts: &Parts,
    workspaces: &Workspaces,
    policies: Policies,
) -> Result<Sessions, AppError> {
    let store: Arc<dyn StorePort> = parts.store.clone();
    let artifacts = Artifacts::new(store.clone(), parts.blobs.clone(), parts.clock.clone())
        .with_redactions(parts.redactions.clone());
    let commands = Commands::new(Arc::new(workspaces.clone()), artifacts)
        .with_check_timeout(settings.session.check_timeout);
    let forge: Arc<dyn ForgePort> = Arc::new(LocalForge::new(
        settings.data_dir.join("forge"),
        store.clone(),
    ));
    #[cfg(feature = "test-util")]
    let forge: Arc<dyn ForgePort> = Arc::new(LossyForge::new(
        forge,
        settings.data_dir.join("forge-loses"),
    ));
    let bundles = BundleSpace {
        parent: settings.data_dir.join("scratch"),
        max_bytes: settings.session.bundle_max_bytes,
    };
    let world = World {
        store,
        commands: commands.clone(),
        prover: Prover::new(commands.clone()),
        forge: forge.clone(),
        ci: LocalCi::new(commands, forge, bundles.clone()),
        bundles,
        catalogue: Arc::new(catalogue(settings)?),
        audit: parts.audit.clone(),
        gatekeeper: Gatekeeper::new(policies),
    };
    Ok(Sessions::new(
        parts.clock.clone(),
        world,
        model_factory(settings, parts.redactions.clone()),
        SessionSettings {
            of_a_day: settings.budget.of_a_day,
            patience: Patience {
                model_tries: settings.model.retries + 1,
                ..Patience::default()
            },
            ..SessionSettings::default()
        },
        parts.tasks.clone(),
        parts.stop.clone(),
    ))
}

/// The failures that are known: the daemon's, and a person's own.
fn catalogue(settings: &Settings) -> Result<Catalogue, AppError> {
    let own = match &settings.session.patterns_file {
        Some(file) => {
            Some(
                std::fs::read_to_string(file).map_err(|error| AppError::PatternsFile {
                    file: file.clone(),
                    message: error.to_string(),
                })?,
            )
        }
        None => None,
    };
    Ok(Catalogue::with(own.as_deref())?)
}

/// What a session has that is asked for without saying more.
pub(super) fn session_defaults(settings: &Settings) -> SessionDefaults {
    let max_time_ms = settings.session.max_time.as_millis();
    SessionDefaults {
        model: settings.model.default.as_ref().map(ToString::to_string),
        edit_formats: settings.model.edit_formats.clone(),
        limits: SessionLimits {
            max_steps: settings.session.max_steps,
            max_time_ms: u64::try_from(max_time_ms).unwrap_or(u64::MAX),
            max_output_tokens: settings.model.max_output_tokens,
            ..SessionLimits::default()
        },
        budget: settings.budget.of_a_session,
        prices: settings.budget.prices.clone(),
        windows: settings.model.windows.clone(),
        compact_percent: settings.model.compact_percent,
        rules_tokens: settings.session.rules_tokens,
        days_cost_money: settings.budget.of_a_day.money.is_some(),
    }
}

/// Models are made once for each session, and recorded in a file of its own.
fn model_factory(settings: &Settings, redactions: Redactions) -> ModelFactory {
    let ours = settings.model.clone();
    let mut base = model::ModelSettings {
        openai_base_url: ours.openai_base_url,
        openai_api_key: ours.openai_api_key,
        anthropic_base_url: ours.anthropic_base_url,
        anthropic_api_key: ours.anthropic_api_key,
        idle_timeout: ours.idle_timeout,
        extra_ca_file: settings.workspace.extra_ca_file.clone(),
        stored: model::StoredCredentials::new(move |text| {
            redactions.current().text(text).into_owned()
        }),
        ..model::ModelSettings::default()
    };
    base.retry.max_tries = ours.retries + 1;
    let record_dir = ours.record_dir;
    Arc::new(move |name, session| {
        let mut settings = base.clone();
        settings.record = (record_dir.as_ref()).map(|dir| dir.join(format!("{session}.jsonl")));
        model::build(name, &settings)
    })
}
