//! Whether the kernel ended processes of this container for want of memory.

/// Where the kernel counts them: cgroups of version 2, then of version 1.
const COUNTERS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// How many it has ended since the container was started; `None` where it does
/// not say.
pub(super) fn oom_kills() -> Option<u64> {
    let read = |file: &&str| std::fs::read_to_string(file).ok();
    count(&COUNTERS.iter().find_map(read)?)
}

fn count(counters: &str) -> Option<u64> {
    let number = |line: &str| line.strip_prefix("oom_kill ")?.parse().ok();
    counters.lines().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let second = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(count(second), Some(2));
        let first = "oom_kill_disable 0\nunder_oom 1\noom_kill 5\n";
        assert_eq!(count(first), Some(5));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
