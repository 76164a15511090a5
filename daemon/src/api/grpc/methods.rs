//! The methods of the API by their paths: what each takes, and who may call it,
//! as the protocol's options say.

use std::collections::HashMap;

use compyd_proto::{FILE_DESCRIPTOR_SET, v1 as wire};
use prost::Message as _;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MessageDescriptor, MethodDescriptor};

use crate::domain::access::{Access, Reach, Role};

/// Our own package.
const PACKAGE: &str = "compy.v1";
/// The option that says who may call a method.
const OPTION: &str = "compy.v1.access";

/// A method of the API.
#[derive(Debug, Clone)]
pub(super) struct Method {
    /// "SnapshotService/DeleteSnapshot".
    pub(super) name: String,
    /// What it takes.
    pub(super) input: MessageDescriptor,
    /// Who may call it.
    pub(super) access: Access,
}

/// The API's methods, by path.
#[derive(Debug)]
pub(super) struct Methods(HashMap<String, Method>);

impl Methods {
    /// Those that this build serves.
    pub(super) fn of_this_build() -> Self {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET);
        let pool = pool.expect("the descriptors are made by this build");
        let option = pool.get_extension_by_name(OPTION);
        let option = option.expect("access.proto is in this build");
        let mut methods = HashMap::new();
        for service in pool.services().filter(|it| it.package_name() == PACKAGE) {
            for method in service.methods() {
                let name = format!("{}/{}", service.name(), method.name());
                let input = method.input();
                let access = access_of(&method, &option);
                let method = Method {
                    name: name.clone(),
                    input,
                    access,
                };
                methods.insert(format!("/{PACKAGE}.{name}"), method);
            }
        }
        Self(methods)
    }

    /// The method with this path.
    pub(super) fn get(&self, path: &str) -> Option<&Method> {
        self.0.get(path)
    }

    /// Every method with its path.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &Method)> {
        self.0.iter()
    }
}

/// What a method's option says. The build refuses a method without one.
fn access_of(method: &MethodDescriptor, option: &ExtensionDescriptor) -> Access {
    let options = method.options();
    let value = options.get_extension(option);
    let message = value.as_message().expect("the option is a message");
    let access = wire::Access::decode(message.encode_to_vec().as_slice());
    let access = access.expect("both are of the same descriptor");
    Access {
        roles: access.roles().filter_map(role).collect(),
        reach: match access.reach() {
            wire::Reach::Unspecified => Reach::Daemon,
            wire::Reach::Named => Reach::Named,
            wire::Reach::Filtered => Reach::Filtered,
            wire::Reach::None => Reach::Nothing,
        },
    }
}

/// A role from the wire; `None` when none is given.
pub(super) fn role(role: wire::Role) -> Option<Role> {
    match role {
        wire::Role::Unspecified => None,
        wire::Role::Reader => Some(Role::Reader),
        wire::Role::Reviewer => Some(Role::Reviewer),
        wire::Role::Author => Some(Role::Author),
        wire::Role::Admin => Some(Role::Admin),
    }
}

/// A role on the wire.
pub(super) fn role_on_wire(role: Role) -> wire::Role {
    match role {
        Role::Reader => wire::Role::Reader,
        Role::Reviewer => wire::Role::Reviewer,
        Role::Author => wire::Role::Author,
        Role::Admin => wire::Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::access::subjects;

    #[test]
    fn every_method_of_the_api_is_known_and_says_who_may_call_it() {
        let methods = Methods::of_this_build();
        assert!(methods.0.len() > 60, "{}", methods.0.len());
        assert!(methods.get("/compy.v1.SystemService/GetInfo").is_some());
        assert!(methods.get("/compy.agent.v1.Trees/Capture").is_none());
        for (path, method) in methods.all() {
            assert!(!method.access.roles.is_empty(), "{path}");
        }
    }

    #[test]
    fn a_method_that_is_about_what_it_names_can_name_something() {
        for (path, method) in Methods::of_this_build().all() {
            let named = subjects::fields_of(&method.input);
            let says_so = method.access.reach == Reach::Named;
            assert!(!says_so || !named.is_empty(), "{path} names nothing");
        }
    }
}
