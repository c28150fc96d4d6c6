//! A tree as a picture, in the languages of Graphviz and Mermaid. Names are the users': nothing in them is taken for a part of
//! the picture's text.

use std::fmt::Write;

use ahash::AHashMap;
use lovage_core::TaskId;

use super::{Kind, Node, Tree};

/// Characters of a name that are shown.
const SHOWN: usize = 60;

/// Graphviz.
pub(crate) fn dot(tree: &Tree) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n", tree.root);
    for (n, node) in tree.nodes.iter().enumerate() {
        let name = escaped(&shown(node), |c| matches!(c, '"' | '\\').then(|| format!("\\{c}")));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  n{n} [label=\"{name}\\n{}\", tooltip=\"{}\"];", standing(node), node.id);
    }
    for (parent, n, kind) in edges(tree) {
        let style = if kind == Kind::Callback { ", style=dashed" } else { "" };
        let _ = writeln!(out, "  n{parent} -> n{n} [label=\"{}\"{style}];", kind.as_str());
    }
    out.push_str("}\n");
    out
}

/// Mermaid.
pub(crate) fn mermaid(tree: &Tree) -> String {
    let mut out = "flowchart LR\n".to_owned();
    for (n, node) in tree.nodes.iter().enumerate() {
        // Inside quotes everything but letters, digits and a few signs is written as a code.
        let plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '-' | '_' | ':' | '/');
        let name = escaped(&shown(node), |c| (!plain(c)).then(|| format!("#{};", u32::from(c))));
        let _ = writeln!(out, "  n{n}[\"{name}<br/>{}\"]", standing(node));
    }
    for (parent, n, kind) in edges(tree) {
        let arrow = if kind == Kind::Callback { "-.->" } else { "-->" };
        let _ = writeln!(out, "  n{parent} {arrow}|{}| n{n}", kind.as_str());
    }
    out
}

/// Parent and child by their places; not to parents that are gone.
fn edges(tree: &Tree) -> Vec<(usize, usize, Kind)> {
    let places: AHashMap<&TaskId, usize> = tree.nodes.iter().enumerate().map(|(n, node)| (&node.id, n)).collect();
    let edge = |(n, node): (usize, &Node)| Some((*places.get(node.parent.as_ref()?)?, n, node.kind));
    tree.nodes.iter().enumerate().filter_map(edge).collect()
}

fn shown(node: &Node) -> String {
    let name = node.name.as_ref().or(node.task.as_ref()).or(node.url.as_ref());
    name.map_or_else(|| node.id.to_string(), |name| name.chars().take(SHOWN).collect())
}

fn standing(node: &Node) -> String {
    node.reason.map_or_else(|| node.state.to_owned(), |reason| format!("{} ({reason})", node.state))
}

fn escaped(text: &str, code: impl Fn(char) -> Option<String>) -> String {
    text.chars().map(|c| code(c).unwrap_or_else(|| c.to_string())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(name: &str) -> Tree {
        let id = |text: &str| TaskId::parse(text).unwrap();
        let node = |n: &str, parent: Option<&str>, kind| Node {
            id: id(n),
            parent: parent.map(id),
            kind,
            callback: None,
            task: Some("a.b".to_owned()),
            url: None,
            name: (kind == Kind::Root).then(|| name.to_owned()),
            state: "failed",
            reason: Some("permanent"),
            attempt: 1,
            created_at: String::new(),
            finished_at: None,
        };
        let nodes = vec![
            node("r", None, Kind::Root),
            node("c", Some("r"), Kind::LinkError),
            node("t", Some("c"), Kind::Callback),
            node("lost", Some("gone"), Kind::Child),
        ];
        Tree { root: id("r"), nodes, truncated: false }
    }

    #[test]
    fn trees_are_drawn_for_graphviz() {
        let text = dot(&tree(r#"say "hi" \ bye"#));
        assert!(text.contains(r#"n0 [label="say \"hi\" \\ bye\nfailed (permanent)", tooltip="r"];"#), "{text}");
        assert!(text.contains(r#"n0 -> n1 [label="link_error"];"#), "{text}");
        assert!(text.contains(r#"n1 -> n2 [label="callback", style=dashed];"#), "{text}");
        assert_eq!(text.matches("->").count(), 2, "{text}");
    }

    #[test]
    fn trees_are_drawn_for_mermaid() {
        let text = mermaid(&tree(r#"<b>"x"</b>; é"#));
        assert!(text.contains(r##"n0["#60;b#62;#34;x#34;#60;/b#62;#59; é<br/>failed (permanent)"]"##), "{text}");
        assert!(text.contains("n0 -->|link_error| n1\n") && text.contains("n1 -.->|callback| n2\n"), "{text}");
    }
}
