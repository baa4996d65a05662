/** The same numbers each time, from 0 to below what is asked for: a test that fails fails again. */
export function randomNumbers(seed: number): (below: number) => number {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed % 65_521) % below;
  };
}
