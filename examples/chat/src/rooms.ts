export interface Room {
  id: string;
  name: string;
  about: string;
}

/** Of an application's own making: presence takes any id for a room. */
export const ROOMS: readonly Room[] = [
  { id: "lobby", name: "Lobby", about: "Come in and say hello" },
  { id: "design", name: "Design", about: "How it looks and feels" },
  { id: "backend", name: "Backend", about: "How it works inside" },
  { id: "coffee", name: "Coffee", about: "Everything else" },
];

export const roomOf = (id: unknown): Room | undefined => ROOMS.find((room) => room.id === id);
