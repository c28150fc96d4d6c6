//! The scripts, by the hash under which Redis knows them. Script text never contains input.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::{Cmd, Script};

/// Scripts that may write when memory is full say so in their first line.
macro_rules! script {
    ($($part:expr),+) => {
        LazyLock::new(|| Lua::new(concat!($($part),+)))
    };
}

/// A script and its hash.
#[derive(Debug)]
pub(super) struct Lua {
    text: &'static str,
    hash: String,
}

impl Lua {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }

    /// The command that makes the script known.
    pub(super) fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.text);
        cmd
    }

    /// Starts a call with these keys; arguments follow.
    pub(super) fn call<K: AsRef<[u8]>>(&self, keys: impl ExactSizeIterator<Item = K>) -> Cmd {
        self.call_with_room(keys, 0, 0)
    }

    /// The same, with room for this many arguments and bytes of keys and arguments.
    fn call_with_room<K: AsRef<[u8]>>(&self, keys: impl ExactSizeIterator<Item = K>, args: usize, bytes: usize) -> Cmd {
        let mut cmd = Cmd::with_capacity(3 + keys.len() + args, 64 + bytes);
        cmd.arg("EVALSHA").arg(&self.hash).arg(keys.len());
        for key in keys {
            cmd.arg(key.as_ref());
        }
        cmd
    }
}

pub(super) static INSERT: LazyLock<Lua> =
    script!(include_str!("lua/lib.lua"), include_str!("lua/keys.lua"), include_str!("lua/insert.lua"));
pub(super) static CHANGE: LazyLock<Lua> =
    script!("#!lua flags=allow-oom\n", include_str!("lua/lib.lua"), include_str!("lua/change.lua"));
pub(super) static GENERAL: LazyLock<Lua> = script!(
    "#!lua flags=allow-oom\n",
    include_str!("lua/lib.lua"),
    include_str!("lua/keys.lua"),
    include_str!("lua/general.lua")
);
pub(super) static KEY: LazyLock<Lua> = script!(include_str!("lua/key.lua"));
pub(super) static OWN: LazyLock<Lua> = script!(include_str!("lua/own.lua"));
pub(super) static LIMIT: LazyLock<Lua> = script!(include_str!("lua/limit.lua"));
pub(super) static META: LazyLock<Lua> = script!(include_str!("lua/meta.lua"));
pub(super) static DOC: LazyLock<Lua> = script!(include_str!("lua/doc.lua"));
pub(super) static GET: LazyLock<Lua> = script!(include_str!("lua/get.lua"));
pub(super) static PAGE: LazyLock<Lua> = script!(include_str!("lua/page.lua"));

/// A call of [`INSERT`], [`CHANGE`] or [`GENERAL`]: the fixed keys of the partition come before `keys`.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) script: &'static Lua,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) args: Vec<Bytes>,
}

impl Call {
    /// The command.
    pub(super) fn command(&self, fixed: &[Vec<u8>]) -> Cmd {
        let keys: Vec<&Vec<u8>> = fixed.iter().chain(&self.keys).collect();
        let bytes = keys.iter().map(|key| key.len()).sum::<usize>() + self.args.iter().map(Bytes::len).sum::<usize>();
        let mut cmd = self.script.call_with_room(keys.into_iter(), self.args.len(), bytes);
        for arg in &self.args {
            cmd.arg(&arg[..]);
        }
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::CHANGE;

    #[test]
    fn the_scripts_keep_as_many_entries_as_the_other_stores() {
        assert!(CHANGE.text.contains(&format!("\nlocal KEPT = {}\n", lovage_core::attempt::KEPT_ENTRIES)));
    }
}
