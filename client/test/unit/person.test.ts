import { expect, it } from "vitest";
import { colourOf, initialsOf } from "../../src/index.js";

it("has initials of names of any kind", () => {
  const names = [
    "Ada Lovelace",
    "Margaret Heafield Hamilton",
    "  plato ",
    "élise ångström",
    "李 小龙",
    "👩‍🚀",
    "🇩🇪 Eva",
    "❤️",
    "1️⃣",
    "",
  ];
  expect(names.map(initialsOf)).toEqual(["AL", "MH", "P", "ÉÅ", "李小", "👩‍🚀", "🇩🇪E", "❤️", "1️⃣", ""]);
});

it("gives each a colour that stays, dark enough for white letters", () => {
  expect(colourOf("ada")).toBe(colourOf("ada"));
  const colours = Array.from({ length: 20 }, (_, number) => colourOf(`guest-${number}`));
  expect(new Set(colours).size).toBe(20);
  for (const colour of colours) expect(colour).toMatch(/^hsl\(\d+ 50% 30%\)$/);
});
