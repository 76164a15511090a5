//! Credentials that are lent to a session as variables: a word that expands one is
//! a look at it where a program shows its arguments, and hands it on where a program
//! sends them. Tools that read a variable by themselves are asked nothing. All
//! variables together are theirs to see, but not to be sent away.

use super::{
    super::{
        risk::RiskKind,
        shell::{SimpleCommand, Word},
    },
    Act, forge,
};

/// What is found of who sends all variables away.
pub(super) const ALL_VARIABLES: &str = "all variables";
/// Programs that ask another machine by HTTP.
const ASKS: [&str; 5] = ["curl", "wget", "http", "https", "aria2c"];
/// Other programs that send what they are given, or look it up.
const SENDS: [&str; 20] = [
    "nc", "ncat", "netcat", "socat", "telnet", "ssh", "scp", "sftp", "ftp", "rcp", "rsync",
    "rclone", "mail", "mailx", "sendmail", "dig", "host", "nslookup", "ping", "websocat",
];
/// Programs that hand on what they are told to, by an account of their own.
const HANDS_ON: [&str; 9] = [
    "gh", "glab", "hub", "aws", "gsutil", "gcloud", "az", "s3cmd", "mc",
];
/// Programs that show or copy what they are given, or the file that it names.
const SHOWS: [&str; 28] = [
    "cat", "head", "tail", "less", "more", "bat", "base64", "base32", "basenc", "xxd", "od",
    "hexdump", "strings", "nl", "tac", "rev", "fold", "cp", "mv", "ln", "install", "dd", "tar",
    "zip", "echo", "printf", "printenv", "wc",
];
/// Parts of names, between underscores, that say what a variable holds.
const PARTS: [&str; 13] = [
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
    "AUTH",
    "PAT",
    "PRIVATEKEY",
];
/// Ends of parts that say so, too: `NPMTOKEN`.
const ENDS: [&str; 4] = ["TOKEN", "SECRET", "PASSWORD", "APIKEY"];
/// Keys that are none.
const PUBLIC: [&str; 6] = [
    "PUBLIC_KEY",
    "CACHE_KEY",
    "PRIMARY_KEY",
    "FOREIGN_KEY",
    "SORT_KEY",
    "PARTITION_KEY",
];

/// Judges a command by the variables that its words expand.
pub(super) fn judge(act: &mut Act, command: &SimpleCommand) {
    let Some(program) = command.program() else {
        return;
    };
    let asks = ASKS.contains(&program);
    let first = command.arguments().first();
    let connects = program == "openssl" && first.is_some_and(|word| word.text == "s_client");
    let sends =
        SENDS.contains(&program) || connects || asks && !forge::Request::of(command).stays_here();
    let mut given = command.arguments().iter().chain(&command.reads);
    if (sends || HANDS_ON.contains(&program))
        && (command.input.has_environment() || given.any(|word| word.of_environment))
    {
        act.find(RiskKind::Credentials, ALL_VARIABLES);
    }
    if !sends && !SHOWS.contains(&program) {
        return;
    }
    let words = command.arguments();
    let names_a_key = |at: usize| at > 0 && !asks && words[at - 1].text == "-i";
    for (at, word) in words.iter().enumerate() {
        let known = match program {
            "printenv" => Some(word.text.as_str()).filter(|name| says_credential(name)),
            // A variable of curl's own.
            "curl" => word
                .text
                .strip_prefix('%')
                .filter(|name| says_credential(name)),
            _ => None,
        };
        if let Some(name) = known.or_else(|| expanded(word))
            && !names_a_key(at)
        {
            act.find(RiskKind::Credentials, format!("${name}"));
        }
    }
    // A text of several lines that is shown is written for its own sake.
    let is_given = |word: &&Word| sends || !word.text.contains(char::is_whitespace);
    for word in command.reads.iter().filter(is_given) {
        if let Some(name) = expanded(word) {
            act.find(RiskKind::Credentials, format!("${name}"));
        }
    }
}

/// The variable that holds a credential, by its name, of those that a word expands.
fn expanded(word: &Word) -> Option<&str> {
    if word.exact {
        return None;
    }
    let text = word.text.as_str();
    let mut begins = text.match_indices('$').map(|(at, _)| at + 1);
    begins.find_map(|at| {
        let rest = &text[at..];
        let in_braces = rest.strip_prefix('{');
        // A length is none, and a name that another variable holds may be any.
        let rest = in_braces.unwrap_or(rest).trim_start_matches('!');
        let is_of_a_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let length = rest.find(|char| !is_of_a_name(char));
        let (name, after) = rest.split_at(length.unwrap_or(rest.len()));
        // `${NAME:+set}` says whether there is one.
        let only_asks = in_braces.is_some() && after.trim_start_matches(':').starts_with('+');
        (!only_asks && says_credential(name)).then_some(name)
    })
}

/// Whether a variable of this name holds a credential, or the name of a file that
/// does. What is written small is a script's own.
fn says_credential(name: &str) -> bool {
    if name.chars().any(|char| char.is_ascii_lowercase()) {
        return false;
    }
    let is_key = name.ends_with("_KEY") || name.contains("_KEY_");
    is_key && !PUBLIC.iter().any(|public| name.contains(public))
        || name
            .split('_')
            .any(|part| PARTS.contains(&part) || ENDS.iter().any(|end| part.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_variables_hold() {
        for name in [
            "NPM_TOKEN",
            "TOKEN",
            "NPMTOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "DB_PASSWORD",
            "GH_PAT",
            "DEPLOY_KEY",
            "SSH_KEY_FILE",
            "API_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ] {
            assert!(says_credential(name), "{name}");
        }
        for name in [
            "MAX_TOKENS",
            "TOKENIZERS_PARALLELISM",
            "PATH",
            "PUBLIC_KEY",
            "KEY",
            "CACHE_KEY",
            "token",
            "AUTHOR",
            "COMPASS",
            "BYPASS_CACHE",
        ] {
            assert!(!says_credential(name), "{name}");
        }
    }

    #[test]
    fn only_what_is_expanded_counts() {
        let found = |text: &str| expanded(&Word::unknown(text)).map(str::to_owned);
        for text in [
            "$TOKEN",
            "a${TOKEN}b",
            "${TOKEN:-x}",
            "$x$TOKEN",
            "${!TOKEN}",
        ] {
            assert_eq!(found(text).as_deref(), Some("TOKEN"), "{text}");
        }
        for text in ["TOKEN", "${TOKEN:+set}", "${TOKEN+set}", "${#TOKEN}", "$"] {
            assert_eq!(found(text), None, "{text}");
        }
        assert_eq!(expanded(&Word::exact("$TOKEN")), None);
    }
}
