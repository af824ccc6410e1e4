//! Steps over the nodes of a parsed document.

use simd_json::tape::Node;

/// The node after a value and everything in it.
pub(super) fn after(nodes: &[Node<'_>], at: usize) -> usize {
    match nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        Node::String(_) | Node::Static(_) => at + 1,
    }
}
