// Whether everything agrees, for presence_verify() and for the review.
#pragma once

namespace presence {

// Within owner work: numbers and events do not fit together, so that no reader can go on from where it is.
bool feed_is_damaged();

}  // namespace presence
