//! Every method with every role, against a real daemon.

use std::time::Duration;

use compyd_proto::{FILE_DESCRIPTOR_SET, v1::GetInfoRequest};
use compyd_tests::{
    daemon::{Daemon, Options},
    remote::{Remote, Transport, with_tls},
};
use prost_reflect::DescriptorPool;
use tonic::{Code, client::Grpc};
use tonic_prost::ProstCodec;

use super::reason;

/// Who may call what: r reader, v reviewer, a author, x admin. The daemon reads its
/// own table from the options of the methods; this one is what people agreed on.
const TABLE: &str = "
---x AccessService/CreateToken
---x AccessService/ListTokens
---x AccessService/RevokeToken
rvax AccessService/WhoAmI
rvax ActivityService/ReadEvents
rvax ActivityService/WatchStats
rvax ActivityService/WatchWorkspaces
-v-x ApprovalService/AnswerApproval
rvax ApprovalService/ListApprovals
rvax ApprovalService/WatchApprovals
rvax ArtifactService/GetArtifact
rvax ArtifactService/ListArtifacts
-v-x AuditService/ExportAudit
-v-x AuditService/SearchAudit
-v-x AuditService/VerifyAudit
---x CredentialService/DeleteCredential
--ax CredentialService/ListCredentials
---x CredentialService/RotateMasterKey
---x CredentialService/SetCredential
rvax PolicyService/CheckPolicy
rvax PolicyService/ExplainPolicy
-v-x SessionService/AnswerSession
--ax SessionService/CancelSession
rvax SessionService/GetSession
rvax SessionService/GetSessionCognition
rvax SessionService/ListModelCalls
rvax SessionService/ListSessions
--ax SessionService/PauseSession
--ax SessionService/ResumeSession
--ax SessionService/RollbackSession
--ax SessionService/StartSession
rvax SessionService/WatchSession
rvax SetupService/CheckSetupFile
--ax SetupService/SetUpRepository
--ax SnapshotService/CreateSnapshot
--ax SnapshotService/DeleteSnapshot
rvax SnapshotService/DiffWorkspace
--ax SnapshotService/ExportSnapshot
--ax SnapshotService/ForkWorkspace
rvax SnapshotService/GetSnapshot
--ax SnapshotService/ImportSnapshot
--ax SnapshotService/LabelSnapshot
rvax SnapshotService/ListSnapshots
--ax SnapshotService/PruneSnapshots
--ax SnapshotService/RestoreWorkspace
---x SystemService/CollectGarbage
rvax SystemService/Diagnose
rvax SystemService/GetInfo
--ax WorkspaceService/AddRepository
--ax WorkspaceService/CreateWorkspace
--ax WorkspaceService/DeleteWorkspace
rvax WorkspaceService/Download
--ax WorkspaceService/Exec
rvax WorkspaceService/GetExec
rvax WorkspaceService/GetWorkspace
rvax WorkspaceService/ListExecs
rvax WorkspaceService/ListWorkspaces
--ax WorkspaceService/PauseWorkspace
--ax WorkspaceService/PortForward
--ax WorkspaceService/ResumeWorkspace
--ax WorkspaceService/SetWorkspaceEgress
--ax WorkspaceService/SignalExec
--ax WorkspaceService/StartWorkspace
--ax WorkspaceService/StopWorkspace
--ax WorkspaceService/UpdateWorkspace
--ax WorkspaceService/Upload
";

const ROLES: [(char, &str); 4] = [
    ('r', "reader"),
    ('v', "reviewer"),
    ('a', "author"),
    ('x', "admin"),
];

/// Calls a method with an empty message; whether that was refused to this caller.
async fn is_denied(transport: &Transport, method: &str) -> bool {
    let mut client = Grpc::new(transport.clone());
    client.ready().await.unwrap();
    let path = format!("/compy.v1.{method}").parse().unwrap();
    // What is empty is a message of every kind; answers may be read as none.
    let codec = ProstCodec::<GetInfoRequest, GetInfoRequest>::default();
    let message = tonic::Request::new(tokio_stream::once(GetInfoRequest {}));
    let answer = tokio::time::timeout(
        Duration::from_secs(10),
        client.streaming(message, path, codec),
    );
    let status = match answer.await {
        // It begins to answer, or takes its time with what it may do.
        Ok(Ok(_)) | Err(_) => return false,
        Ok(Err(status)) => status,
    };
    assert_ne!(status.code(), Code::Unauthenticated, "{method}: {status:?}");
    assert_ne!(status.code(), Code::Unimplemented, "{method}: {status:?}");
    let is_denied = status.code() == Code::PermissionDenied;
    assert_eq!(
        is_denied,
        reason(&status) == "ROLE_INSUFFICIENT",
        "{method}: {status:?}"
    );
    is_denied
}

#[tokio::test]
async fn every_method_is_open_to_its_roles_and_to_nobody_else() {
    let rows: Vec<(&str, &str)> = TABLE
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = pool.services().filter(|it| it.package_name() == "compy.v1");
    let mut methods: Vec<String> = services
        .flat_map(|service| {
            let methods: Vec<_> = service.methods().collect();
            let name = service.name().to_owned();
            methods
                .into_iter()
                .map(move |it| format!("{name}/{}", it.name()))
        })
        .collect();
    methods.sort();
    let mut listed: Vec<&str> = rows.iter().map(|(_, method)| *method).collect();
    listed.sort_unstable();
    assert_eq!(listed, methods, "a method is missing in the table, or gone");

    let options = with_tls(Options::default()).set("remote.calls_per_second", "100000");
    let daemon = Daemon::start_bare(options).await;
    let remote = Remote::of(&daemon);
    let mut wrong = Vec::new();
    for (letter, role) in ROLES {
        let token = daemon.token(role, role, &[]).await;
        let transport = remote.connect(&token).await.unwrap();
        for (roles, method) in &rows {
            let expected = !roles.contains(letter);
            if is_denied(&transport, method).await != expected {
                wrong.push(format!("{role} {method}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
