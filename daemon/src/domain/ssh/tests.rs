//! Keys that were made for these tests and are used nowhere.

use ring::rand::SystemRandom;

use super::{
    agent::{AgentSession, FAILURE, Identity, LoginToSign, Reply},
    wire::{put, strings},
    *,
};

pub(crate) const ED25519_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACCNhdBi4A/HE5iFfIBSwQEXpBSHm6H7wMVuK0EMgCBf8wAAAIgIx6TJCMek
yQAAAAtzc2gtZWQyNTUxOQAAACCNhdBi4A/HE5iFfIBSwQEXpBSHm6H7wMVuK0EMgCBf8w
AAAEASCP1H2glAS6Km4q9PHOGTs9Ay2TVnzRWgQluXIyOoxY2F0GLgD8cTmIV8gFLBARek
FIebofvAxW4rQQyAIF/zAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";
pub(crate) const ED25519_PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII2F0GLgD8cTmIV8gFLBARekFIebofvAxW4rQQyAIF/z test";
const P256_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQQUAXWqWBpj7EGQ1AVpTI+ZCFA9APbV
LzVAAv5RwlhO+32TuepS8AUDyZlAIlM3bhJfG2QH/CKKtTerntsIATW2AAAAoCN1qF0jda
hdAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBQBdapYGmPsQZDU
BWlMj5kIUD0A9tUvNUAC/lHCWE77fZO56lLwBQPJmUAiUzduEl8bZAf8Ioq1N6ue2wgBNb
YAAAAhAKIUwuR5KlfjC28rijJqLHnihp3cIEyw/0m9dt+sSXILAAAABHRlc3QBAgM=
-----END OPENSSH PRIVATE KEY-----
";
const P256_PUBLIC: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBQBdapYGmPsQZDUBWlMj5kIUD0A9tUvNUAC/lHCWE77fZO56lLwBQPJmUAiUzduEl8bZAf8Ioq1N6ue2wgBNbY= test";
const ENCRYPTED_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABCbDhQyhT
Ga9oFpaPU9sSTSAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIE0y5x826zkA1BS9
g9sgJitJRLNTna5f8vO+ZIWIFJuOAAAAkEbWA+0SgymJsPVklC1ty8WGhOmOnofMhYawgq
agoT/ptYrwOVmppSCTU0H+XT6d8QDaqyT6ZmvAUbQ/VGPfShVamOG/LGpf8g1DIhT0PbvL
wyx9pL6iJnEL0gqv3HdoKb2Tc/MR+rYfHSs4rI58IysnDUvr/DU/+1v/zoppGGgdUF8Vm2
opLi/r6N2tN1GmZQ==
-----END OPENSSH PRIVATE KEY-----
";
const P384_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAiAAAABNlY2RzYS
1zaGEyLW5pc3RwMzg0AAAACG5pc3RwMzg0AAAAYQRsUGWx/KCjO4emi2DytDAPIXaI0GIo
kvQlkP3JyttE/IhZ8ilTxr0WEjA41jX7MkeXaRVTPelRps81C4AEY1AnGKjmZ25zqJQB4m
BzpIzlK9vuIk5Mr67CnCGkMuAyiIQAAADQM0PHVDNDx1QAAAATZWNkc2Etc2hhMi1uaXN0
cDM4NAAAAAhuaXN0cDM4NAAAAGEEbFBlsfygozuHpotg8rQwDyF2iNBiKJL0JZD9ycrbRP
yIWfIpU8a9FhIwONY1+zJHl2kVUz3pUabPNQuABGNQJxio5mduc6iUAeJgc6SM5Svb7iJO
TK+uwpwhpDLgMoiEAAAAMQDWqG/stor/fQoIdwxZ/ljtY5DDnQm5R1yhobUjhacHIz6+QD
WZjPJgSSm7AgjPrA4AAAAHcm9vdEB2bQ==
-----END OPENSSH PRIVATE KEY-----
";
const RSA_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAABFwAAAAdzc2gtcn
NhAAAAAwEAAQAAAQEAjOvQlnYuLb/IeZ+LYPfy0bGD2Jw3fZoNbYiuksHdkc7/ri+7vATY
2yFrqkey3XhKjS9tEzryL/wx8w36NxNPpuKvYsx4luFCmCEytWtDh8amuzJGUFNBYq9I4y
fYHayeaI3sK5gUUSlPACsLSZGg0BEX1b8K9IxPLEWOJ0q6+MhQ5VP5UPsjEgISBnRNLKOH
KQOUsiUgqGJL7qxjw5dXTMeE4o5lTNyycrzEtdAWvtkK3/ZQ1gKUIheQRuGdISK5j4cqh2
BRjjZd1B9Q7GGtBzJ4EpLYuswtNwdjcpo8JtsXY+D7+x7q/4UZyuzHKzBkHuqRLvBHrefs
8TFWJXxlowAAA8C66hMauuoTGgAAAAdzc2gtcnNhAAABAQCM69CWdi4tv8h5n4tg9/LRsY
PYnDd9mg1tiK6Swd2Rzv+uL7u8BNjbIWuqR7LdeEqNL20TOvIv/DHzDfo3E0+m4q9izHiW
4UKYITK1a0OHxqa7MkZQU0Fir0jjJ9gdrJ5ojewrmBRRKU8AKwtJkaDQERfVvwr0jE8sRY
4nSrr4yFDlU/lQ+yMSAhIGdE0so4cpA5SyJSCoYkvurGPDl1dMx4TijmVM3LJyvMS10Ba+
2Qrf9lDWApQiF5BG4Z0hIrmPhyqHYFGONl3UH1DsYa0HMngSkti6zC03B2Nymjwm2xdj4P
v7Hur/hRnK7McrMGQe6pEu8Eet5+zxMVYlfGWjAAAAAwEAAQAAAQANabCL2BAv8ie4GjOf
W8Cn4GtTmOLYBWt7xN1HQkTyYnwH7arC8mJcBEO48sp9tYjBawWVvy/02as9BO3Cg9SgzM
WAWnffD7rrIe9ipyTHupewctBdR6wnvKLr9z6xuSlgSD0PYfhx4fdCZXAImGAKQP/X+PwN
wYETp92OgQvOYmM8urKPQylWzq1FStXT3Bk/OVoh8Y0m92UIop0GzJTYSXIXRVWGvSlR3Z
isBKisDZcKFfE+rFDpGZdLfULaORw6DdbuGyW6ovplGwrA28UKGy/x7eSVpqs1VvDwDoHi
jBkc16VRLt0jBqxJ2GbMUEZe2EJHTkRE8Aohv2dZqhRBAAAAgEt9lUxchyqsNp5cKNIYJQ
w74SOf+zGr9HyLry7d284ijx1cvR9EyWnQgnb4cwsaWZ6/Oc7enpd9w6PNFFTzaElsokXA
5Fi3N4LAjistdjzY4p2HFXHkfAacthmzatquRdthAkMG8oHEHbR/2bswlVbPdPUe3m5rHM
8quvRfdWQvAAAAgQDARYI1o+dU5yyFe0/JB/qbSG7fm03zXJ0Kxm+F4lPgShPZnz+S0nxJ
EefAAujNWujBv/OAvvSs0hiJ4x8+6iU7U9Y7jEVNawnqzB8HKnVPImPJWqkwEabDmd2pbR
ghICpI8jVIB7zAvFdAZgO3PitXytgcttxDzwkLwDs/IGkEIQAAAIEAu6Eo9FwI2xRvD3iQ
RCQv0vX8yXDx23civFVv+bzJaOgHvqMkzBbVlkI0BUO8olPyZCzylIpL6nSbppDha96XYh
0rxoJlKn5/+Q59/dZfZe89GD6BnhMeI0duqaNtwIfLmmhZHY/pRb07Y0Jsv/uzbJQ3cYYZ
iCzuwmMXH4l2MUMAAAAEdGVzdAECAwQFBgc=
-----END OPENSSH PRIVATE KEY-----
";
const RSA_OWN_PUBLIC: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCM69CWdi4tv8h5n4tg9/LRsYPYnDd9mg1tiK6Swd2Rzv+uL7u8BNjbIWuqR7LdeEqNL20TOvIv/DHzDfo3E0+m4q9izHiW4UKYITK1a0OHxqa7MkZQU0Fir0jjJ9gdrJ5ojewrmBRRKU8AKwtJkaDQERfVvwr0jE8sRY4nSrr4yFDlU/lQ+yMSAhIGdE0so4cpA5SyJSCoYkvurGPDl1dMx4TijmVM3LJyvMS10Ba+2Qrf9lDWApQiF5BG4Z0hIrmPhyqHYFGONl3UH1DsYa0HMngSkti6zC03B2Nymjwm2xdj4Pv7Hur/hRnK7McrMGQe6pEu8Eet5+zxMVYlfGWj test";
/// Of 1024 bits.
const RSA_SHORT_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAlwAAAAdzc2gtcn
NhAAAAAwEAAQAAAIEAtBQdtq3BNIbvQ2iBtC3yqF5BOiQ52ojOSXNIpvF8O4BbP9sCmbvr
bIUTMFZhUmS+815ZEIi5EQimUvZPWa0YhWYRyxUcGpDvcqz2obWQr4G5MozxjjxAoeRVan
6D+dUIlbXxHiQWuCAdM2UZq38VwNo3QYtZrjsk5GH80isKLLUAAAIAB4PvtQeD77UAAAAH
c3NoLXJzYQAAAIEAtBQdtq3BNIbvQ2iBtC3yqF5BOiQ52ojOSXNIpvF8O4BbP9sCmbvrbI
UTMFZhUmS+815ZEIi5EQimUvZPWa0YhWYRyxUcGpDvcqz2obWQr4G5MozxjjxAoeRVan6D
+dUIlbXxHiQWuCAdM2UZq38VwNo3QYtZrjsk5GH80isKLLUAAAADAQABAAAAgQCY5pOsLr
Bjx0aUt8GZmYH2T8GWenfdBFgTqZ1Akr5nTz8rYuw8WIE27W8zlcSgzwYLYkrBbTWmLu/6
dUU+4Wh1PtMTDH8SoqDSaTs/1ht/QaEMnZIxu/wnVP56Vcl7TLI4tLulmTsXq8AozSCwZT
tiVr1VKxDa+fAdRGzgyBYIQQAAAEEAl5l0/euFJi0RAzsy6CsdMpYjGsz783P/w3Q4MQaz
RobAiwUJyhqWA2HtPLfQj94Oyf4oILBnyHPBagkB7qtjsQAAAEEA426ElH2ekbEnDqRWgC
IRUqkk4R6TEX6L5srixv8N1jmvMfb/NB6oENLXwJhUKJdpIUuxJUYqoJUCUQZX286q6QAA
AEEAyrLfKJVJjvTihi32lwMR8iaKIWstq6yWFOv7Mpokw8uJHuuseP8iWPRhj+gQRQDezU
1MN6N5Ggve1+pyTNh77QAAAAR0ZXN0AQIDBAU=
-----END OPENSSH PRIVATE KEY-----
";
/// A host's key, and what it signed by rsa-sha2-512.
const RSA_PUBLIC: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDMLSDV1cACy2daJS00Nj9Rh0UWMLLsFwgxNUWbwIwW79aTFzybZOvnT1VHSqtTDn899LfQ43cx58gR0oqrZ4jP2VMdLWZshy3IQVkGYn9XS1Aa3qj35MykSBkHCZZTwNXOaOIvBTurvpGyx5/3Msk8V8XpgclMRFpJ8G3ryGdtxgZy8pa0BVgg55D5JVnBV1D+M5LlDGwnIDOhLrWRJjuxtj2il3K0g7i3ZrSwrMF7QlLG1sCzxrgpxIc40bdldqI+9eAzdknfmIjQMjklzMOsSZbKNSH4jGYHzgjl47THFQ3fS4jQ4oakgNUuScDYwzCh8iOtJP23lMGfh7z60lFj test";
const RSA_SIGNATURE: &str = "AAAADHJzYS1zaGEyLTUxMgAAAQCdQaaN1k7zXt3BaetWuoI10uh41AiAmEKtfeRsB4Exe1PjHL8kRQCs8CEMH5v0NWmOIvKS6BfHrpYu5+bntvrI4g5fg4v80PmMP2KVDYq8Lxo3rcrUn2fQee5NVzS6Eqbi2C0GLm2ty/saC7HFpcivFqvvQk4onpb3o8VB0Xu/tAZA36vPTPral2q0oyajJL6COsqg5wcDTSbEDipHt0kfOz4N977Sw0EH7kV1v/Qd55zh5vvZmRVUgswiGxUQpAnuwGFSxqGY6IYJDimOpCEdttFL6x26ZZlUmiPIsfN0r8k5W+HHyg/WyRQSjqtRA0HwGdOTmCgN+bTyaFrXHNNn";

fn key(file: &str) -> SshKey {
    SshKey::parse(file.as_bytes()).unwrap()
}

fn host_key(line: &str) -> HostKey {
    HostKey::parse_all(line).unwrap().remove(0)
}

fn refused(file: &str) -> SshKeyError {
    SshKey::parse(file.as_bytes()).err().unwrap()
}

#[test]
fn a_key_signs_what_its_public_key_verifies() {
    for (file, public, algorithm) in [
        (ED25519_KEY, ED25519_PUBLIC, "ssh-ed25519"),
        (P256_KEY, P256_PUBLIC, "ecdsa-sha2-nistp256"),
        (RSA_KEY, RSA_OWN_PUBLIC, "rsa-sha2-256"),
        (RSA_KEY, RSA_OWN_PUBLIC, "rsa-sha2-512"),
    ] {
        let (key, public) = (key(file), host_key(public));
        assert_eq!(key.public(), public.blob());
        // Not by SHA-1, and not as another kind of key would.
        for other in ["ssh-rsa", "ssh-dss", ""] {
            assert_eq!(key.sign(other, b"", &SystemRandom::new()), None);
        }
        for data in [&b""[..], b"a session's id", &[7; 5000]] {
            let signature = key.sign(algorithm, data, &SystemRandom::new()).unwrap();
            assert!(public.verifies(data, &signature));
            assert!(!public.verifies(b"other", &signature));
            let mut changed = signature.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert!(!public.verifies(data, &changed));
            for cut in 0..signature.len() {
                assert!(!public.verifies(data, &signature[..cut]));
            }
        }
    }
}

#[test]
fn a_host_may_have_a_key_of_rsa() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let signature = STANDARD.decode(RSA_SIGNATURE).unwrap();
    let public = host_key(RSA_PUBLIC);
    assert!(public.verifies(b"a session's id", &signature));
    assert!(!public.verifies(b"another's id", &signature));
}

#[test]
fn what_is_no_key_to_work_with_is_refused_with_what_to_do() {
    assert_eq!(refused(ENCRYPTED_KEY), SshKeyError::Encrypted);
    assert!(refused(ENCRYPTED_KEY).to_string().contains("ssh-keygen"));
    assert_eq!(
        refused(P384_KEY),
        SshKeyError::Kind("ecdsa-sha2-nistp384".to_owned())
    );
    assert_eq!(refused(RSA_SHORT_KEY), SshKeyError::Rsa);
    let pkcs8 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----";
    for file in ["", "x", ED25519_PUBLIC, pkcs8] {
        assert_eq!(refused(file), SshKeyError::Format, "{file}");
    }
    // Cut or changed anywhere it is no key, and no panic.
    let lines: Vec<&str> = ED25519_KEY.lines().collect();
    let body = lines[1..lines.len() - 1].join("");
    for cut in (0..body.len()).step_by(4) {
        let file = format!("{}\n{}\n{}", lines[0], &body[..cut], lines[lines.len() - 1]);
        assert!(SshKey::parse(file.as_bytes()).is_err(), "{cut}");
    }
}

#[test]
fn what_is_secret_of_a_key_is_not_what_others_have_too() {
    let secrets = secrets_of(ED25519_KEY.as_bytes());
    let other = ED25519_KEY.lines().nth(1).unwrap().as_bytes();
    assert!(!secrets.iter().any(|secret| secret.starts_with(other)));
    let third = ED25519_KEY.lines().nth(3).unwrap().as_bytes();
    assert!(secrets.iter().any(|secret| secret == third));
    assert_eq!(secrets.len(), 5, "four lines, and all together");
    let short = secrets_of(P256_KEY.as_bytes());
    assert!(short.iter().all(|secret| secret.len() >= 20));
}

#[test]
fn host_keys_are_read_as_tools_print_them() {
    let scanned =
        format!("# host:22 SSH-2.0\n[host.example]:2222 {ED25519_PUBLIC}\n\n{P256_PUBLIC}\n");
    let keys = HostKey::parse_all(&scanned).unwrap();
    assert_eq!(keys, [host_key(ED25519_PUBLIC), host_key(P256_PUBLIC)]);
    let stored: HostKey = keys[0].to_string().try_into().unwrap();
    assert_eq!(stored, keys[0]);
    let dss = "host ssh-dss AAAAB3NzaC1kc3MAAA==";
    let other = ED25519_PUBLIC.replace("ssh-ed25519", "ssh-rsa");
    let revoked = format!("@revoked * {ED25519_PUBLIC}");
    for line in [
        "host",
        "host ssh-ed25519",
        "ssh-ed25519 !",
        dss,
        &other,
        &revoked,
    ] {
        assert!(HostKey::parse_all(line).is_err(), "{line}");
    }
}

/// A client's conversation with the agent of one identity: its key is of ed25519,
/// its host's of P-256.
struct Client {
    session: AgentSession,
    identity: Identity,
}

impl Client {
    fn new() -> Self {
        Self {
            session: AgentSession::default(),
            identity: Identity {
                name: "deploy".to_owned(),
                public: key(ED25519_KEY).public().to_vec(),
                algorithms: &["ssh-ed25519"],
                host_keys: vec![host_key(P256_PUBLIC)],
            },
        }
    }

    fn say(&mut self, message: &[u8]) -> Reply {
        self.session
            .answer(message, std::slice::from_ref(&self.identity))
    }

    fn bind(&mut self, host: &str, id: &[u8], signed: &[u8], forwarded: u8) -> Reply {
        let host = key(host);
        let algorithm = host.algorithms()[0];
        let signature = host.sign(algorithm, signed, &SystemRandom::new()).unwrap();
        let mut message = vec![27];
        put(&mut message, b"session-bind@openssh.com");
        message.extend(strings(&[host.public(), id, &signature]));
        message.push(forwarded);
        self.say(&message)
    }

    fn sign(&mut self, data: &[u8]) -> Reply {
        let mut message = vec![13];
        message.extend(strings(&[&self.identity.public.clone(), data]));
        message.extend([0; 4]);
        self.say(&message)
    }
}

/// What is signed to log `git` in.
fn login(session: &[u8], method: &[u8], more: &[u8]) -> Vec<u8> {
    let key = key(ED25519_KEY);
    let mut data = strings(&[session]);
    data.push(50);
    data.extend(strings(&[b"git", b"ssh-connection", method]));
    data.push(1);
    data.extend(strings(&[b"ssh-ed25519", key.public()]));
    data.extend(more);
    data
}

fn failure() -> Reply {
    Reply::Message(vec![FAILURE])
}

#[test]
fn logins_are_signed_for_the_host_and_nothing_else_is() {
    let host = key(P256_KEY);
    let of_host = strings(&[host.public()]);
    let bound_to: &[u8] = b"publickey-hostbound-v00@openssh.com";
    let mut client = Client::new();
    let plain = login(b"session", b"publickey", &[]);
    assert_eq!(client.sign(&plain), failure(), "the session was not shown");
    let success = Reply::Message(vec![6]);
    assert_eq!(client.bind(P256_KEY, b"session", b"session", 0), success);
    for data in [&plain, &login(b"session", bound_to, &of_host)] {
        let expected = Reply::Sign(LoginToSign {
            name: "deploy".to_owned(),
            user: "git".to_owned(),
            algorithm: "ssh-ed25519",
            data: data.clone(),
        });
        assert_eq!(client.sign(data), expected);
    }
    let own = key(ED25519_KEY);
    let mut unsigned = plain.clone();
    let flag = plain.len() - strings(&[b"ssh-ed25519", own.public()]).len() - 1;
    unsigned[flag] = 0;
    for (data, why) in [
        (login(b"other", b"publickey", &[]), "another session"),
        (login(b"session", b"password", &[]), "another method"),
        (login(b"session", b"publickey", b"x"), "more than a login"),
        (
            login(b"session", bound_to, &strings(&[own.public()])),
            "another host",
        ),
        (login(b"session", bound_to, &[]), "no host"),
        (plain[..plain.len() - 1].to_vec(), "less than a login"),
        (unsigned, "a question"),
        (b"SSHSIG\0\0\0\x04file".to_vec(), "a file"),
        (Vec::new(), "nothing"),
    ] {
        assert_eq!(client.sign(&data), failure(), "{why}");
    }
}

#[test]
fn a_session_is_shown_by_its_host_alone() {
    for (host, id, signed, forwarded, why) in [
        (
            ED25519_KEY,
            &b"session"[..],
            &b"session"[..],
            0,
            "a host that is not named",
        ),
        (
            P256_KEY,
            b"session",
            b"other",
            0,
            "a signature of another session",
        ),
        (
            P256_KEY,
            b"session",
            b"session",
            1,
            "a session of somebody else",
        ),
    ] {
        let mut client = Client::new();
        assert_eq!(client.bind(host, id, signed, forwarded), failure(), "{why}");
        let plain = login(b"session", b"publickey", &[]);
        assert_eq!(client.sign(&plain), failure(), "{why}");
    }
}

#[test]
fn keys_are_listed_and_all_else_is_refused() {
    let mut client = Client::new();
    let mut listed = vec![12, 0, 0, 0, 1];
    listed.extend(strings(&[key(ED25519_KEY).public(), b"deploy"]));
    assert_eq!(client.say(&[11]), Reply::Message(listed));
    for kind in 0..=255 {
        if kind != 11 {
            assert_eq!(client.say(&[kind]), failure(), "{kind}");
        }
        assert_eq!(client.say(&[kind, 0, 0, 0, 1, b'x']), failure(), "{kind}");
        assert_eq!(client.say(&[kind, 255, 255, 255, 255]), failure(), "{kind}");
    }
    assert_eq!(client.say(&[]), failure());
}
