//! Compiles the protos with protox, so that no `protoc` is needed, and refuses
//! methods of `compy.v1` that do not say who may call them.

use protox::prost_reflect::{DescriptorPool, Kind, Value};

const FILES: &[&str] = &[
    "compy/v1/access.proto",
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
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;
    let open = methods_without_access(&compiler.descriptor_pool());
    if !open.is_empty() {
        let methods = open.join(", ");
        return Err(format!("nothing says who may call {methods}: give each the option (access) with at least one role (compy/v1/access.proto)").into());
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // With the values of our own options, which the set below has not.
    std::fs::write(
        out.join("compy.descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The methods that no role may call, because nobody has said which may.
fn methods_without_access(pool: &DescriptorPool) -> Vec<String> {
    let access = pool.get_extension_by_name("compy.v1.access");
    let access = access.expect("access.proto is among the files");
    assert!(matches!(access.kind(), Kind::Message(_)));
    let mut without = Vec::new();
    for service in pool.services().filter(|it| it.package_name() == "compy.v1") {
        for method in service.methods() {
            let options = method.options();
            let value = options.get_extension(&access);
            let roles = value
                .as_message()
                .and_then(|it| it.get_field_by_name("roles"));
            let named = roles.is_some_and(|roles| match &*roles {
                Value::List(roles) => !roles.is_empty(),
                _ => false,
            });
            if !named {
                without.push(method.full_name().to_owned());
            }
        }
    }
    without
}
