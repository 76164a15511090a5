//! The doctor, with what it looks at.

use std::sync::Arc;

use super::parts::runtime;
use crate::{
    adapters::{clock::SystemClock, disk_space},
    config::Settings,
    ports::runtime::RuntimePort,
    service::doctor::{Doctor, Keys, Subjects},
};

/// A doctor for these settings; `compyd check` asks it without a daemon.
#[must_use]
pub fn doctor(settings: &Settings) -> Doctor {
    doctor_of(settings, Arc::new(runtime(settings, String::new())))
}

pub(super) fn doctor_of(settings: &Settings, runtime: Arc<dyn RuntimePort>) -> Doctor {
    let model = &settings.model;
    let subjects = Subjects {
        image: settings.workspace.image.clone(),
        agent_file: settings.workspace.agent_file.clone(),
        data_dir: settings.data_dir.clone(),
        low_water_bytes: settings.disk.low_water_bytes,
        config_warnings: settings.warnings.clone(),
        git: "git".into(),
        model: model.default.clone(),
        keys: Keys {
            openai: model.openai_api_key.is_some(),
            openai_elsewhere: model.openai_base_url.is_some(),
            anthropic: model.anthropic_api_key.is_some(),
        },
    };
    Doctor::new(
        subjects,
        runtime,
        Arc::new(SystemClock),
        disk_space::free_bytes_once_made,
    )
}
