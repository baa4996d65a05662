// Whether everything agrees, for presence_verify() and for the review.
#pragma once

namespace presence {

// Within owner work: numbers and events do not fit together, so that no reader can go on from where it is.
bool feed_is_damaged();
// The same: whether the feed counts as many in each room as there are.
bool room_counts_agree();

}  // namespace presence
