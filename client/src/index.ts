export { PresenceService, type PresenceRoom } from "./presenceService.js";
export { acquirePresence, pagePresence, watchPresence, type PresenceLease } from "./sharedService.js";
export type { PresenceOptions } from "./core/options.js";
export { EMPTY_STATE, type PresenceEvents, type PresenceState, type PresenceStats } from "./core/state.js";
export { EMPTY_ROOM, type RoomState } from "./core/room.js";
export { HttpTransport, type HttpTransportOptions } from "./core/httpTransport.js";
export { RpcTransport, type RpcTransportOptions } from "./core/rpcTransport.js";
export type { CleanupResult } from "./core/cleanup.js";
export { colourOf, initialsOf } from "./core/person.js";
export type { FeedPosition } from "./core/feedPosition.js";
export {
  PresenceError,
  type FeedSink,
  type FollowedRoom,
  type RequestHeaders,
  type HeaderSource,
  type PresenceTransport,
  type RoomTransport,
  type StatusTransport,
} from "./core/transport.js";
export type * from "./core/types.js";
