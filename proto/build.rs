//! Compiles the protos with protox, so that no `protoc` is needed.

use prost::Message as _;

const FILES: &[&str] = &[
    "compy/v1/workspace.proto",
    "compy/v1/activity.proto",
    "compy/v1/setup.proto",
    "compy/v1/policy.proto",
    "compy/v1/session.proto",
    "compy/v1/approval.proto",
    "compy/v1/snapshot.proto",
    "compy/v1/artifact.proto",
    "compy/v1/credential.proto",
    "compy/v1/system.proto",
    "compy/v1/audit.proto",
    "compy/agent/v1/agent.proto",
    "compy/agent/v1/tunnel.proto",
    "compy/agent/v1/tree.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("compy.descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
