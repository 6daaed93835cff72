// Values as people read them: hPa instead of Pa, degrees Celsius instead of kelvin.
export function shown(units) {
  if (units === "Pa") return { units: "hPa", of: (value) => value / 100 };
  if (units === "K") return { units: "°C", of: (value) => value - 273.15 };
  return { units, of: (value) => value };
}
export const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(3));
export const instant = (time) => `${time.slice(0, 10)} ${time.slice(11, 16)} UTC`;
