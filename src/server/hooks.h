// What presence has to know of other commands: those that want a database for themselves, so that the worker leaves it for
// a moment; those that change its settings; and the end of the extension. Nothing that a heartbeat needs lives here.
#pragma once

namespace presence {

// Before the server starts.
void install_hooks();
// This transaction has written a session for which the cache had no memory: whoever fills the cache meanwhile can't see it.
void note_cache_gap_at_commit();
// Waits until those who are committing prepared transactions have told the worker. The caller holds locks that keep others from
// being committed.
void await_prepared_commits();
// This transaction has changed the tables by hand. only_added: it has only added rows.
void note_change_by_hand_at_commit(bool only_added);

}  // namespace presence
