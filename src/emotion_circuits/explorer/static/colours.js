// Standard deviations as colours: orange above 0, blue below, always light enough for black letters (4.5 : 1 and more).

export const LEAST_RANGE = 3;
const UP = [247, 150, 70];
const DOWN = [120, 170, 235];

export function colour(value, range) {
  const share = Math.min(1, Math.abs(value) / range);
  const end = value >= 0 ? UP : DOWN;
  const mixed = end.map((channel) => Math.round(255 + (channel - 255) * share));
  return `rgb(${mixed.join(" ")})`;
}
