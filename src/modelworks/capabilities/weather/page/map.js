// The map: a field in colours, coastlines, a graticule, particles that the wind carries, and a cursor.
const STOPS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
const PARTICLES = 700, LIFE = 60;

export function colour(part) {
  const at = Math.min(0.9999, Math.max(0, part)) * (STOPS.length - 1);
  const low = Math.floor(at), rest = at - low;
  return STOPS[low].map((value, each) => Math.round(value + (STOPS[low + 1][each] - value) * rest));
}

export class WeatherMap {
  constructor(canvas, coastlines) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.coastlines = coastlines;
    this.base = document.createElement("canvas");
    this.particles = [];
    this.tracks = []; // GeoJSON's features
    this.time = null; // of the field, milliseconds
  }

  // latitudes from the north, longitudes ascending: degrees.
  setGrid(latitudes, longitudes) {
    this.latitudes = latitudes;
    this.longitudes = longitudes;
    this.north = latitudes[0];
    this.south = latitudes.at(-1);
    this.west = longitudes[0];
    const spacing = longitudes.length > 1 ? longitudes[1] - longitudes[0] : 1;
    this.isGlobal = longitudes.at(-1) - this.west + spacing > 359.9;
    this.east = this.isGlobal ? this.west + 360 : longitudes.at(-1);
    const middle = Math.cos((((this.north + this.south) / 2) * Math.PI) / 180);
    const ratio = (this.north - this.south || 1) / ((this.east - this.west || 1) * Math.max(0.5, middle));
    this.canvas.height = Math.round(this.canvas.width * Math.min(0.62, Math.max(0.35, ratio)));
    this.base.width = this.canvas.width;
    this.base.height = this.canvas.height;
    this.cursor = null;
    this.particles = [];
  }

  x(longitude) { return ((longitude - this.west) / (this.east - this.west)) * this.canvas.width; }
  y(latitude) { return ((this.north - latitude) / (this.north - this.south)) * this.canvas.height; }
  placeOf(x, y) { return [this.north - (y / this.canvas.height) * (this.north - this.south), this.west + (x / this.canvas.width) * (this.east - this.west)]; }

  // Bilinear between the grid's points; `x` and `y` are parts of the map's width and height.
  sample(field, x, y) {
    const width = this.longitudes.length, height = this.latitudes.length;
    const column = x * (this.isGlobal ? width : width - 1), row = y * (height - 1);
    const left = Math.min(Math.floor(column), width - 1), top = Math.min(Math.floor(row), height - 1);
    const right = this.isGlobal ? (left + 1) % width : Math.min(left + 1, width - 1), bottom = Math.min(top + 1, height - 1);
    const across = column - left, down = row - top;
    const above = field[top * width + left] * (1 - across) + field[top * width + right] * across;
    const below = field[bottom * width + left] * (1 - across) + field[bottom * width + right] * across;
    return above * (1 - down) + below * down;
  }

  setField(field, low, high) {
    const { width, height } = this.base;
    const pen = this.base.getContext("2d"), image = pen.createImageData(width, height);
    const table = Array.from({ length: 256 }, (_, at) => colour(at / 255));
    const span = high - low || 1;
    for (let y = 0, at = 0; y < height; y += 1)
      for (let x = 0; x < width; x += 1, at += 4) {
        const value = this.sample(field, (x + 0.5) / width, (y + 0.5) / height);
        if (!Number.isFinite(value)) continue;
        const found = table[Math.max(0, Math.min(255, Math.round(((value - low) / span) * 255)))];
        image.data[at] = found[0]; image.data[at + 1] = found[1]; image.data[at + 2] = found[2]; image.data[at + 3] = 255;
      }
    pen.clearRect(0, 0, width, height);
    pen.putImageData(image, 0, 0);
    this.lines(pen);
    this.draw();
  }

  lines(pen) {
    pen.lineWidth = 0.6; pen.strokeStyle = "rgba(255,255,255,.35)"; pen.fillStyle = "#fff"; pen.font = "11px sans-serif";
    const step = this.east - this.west > 120 ? 30 : this.east - this.west > 30 ? 10 : 5;
    for (let at = Math.ceil(this.west / step) * step; at <= this.east; at += step) {
      pen.beginPath(); pen.moveTo(this.x(at), 0); pen.lineTo(this.x(at), this.base.height); pen.stroke();
      const near = ((((at + 180) % 360) + 360) % 360) - 180;
      pen.fillText(`${Math.abs(near)}°${near < 0 ? "W" : "E"}`, this.x(at) + 3, this.base.height - 4);
    }
    for (let at = Math.ceil(this.south / step) * step; at <= this.north; at += step) {
      pen.beginPath(); pen.moveTo(0, this.y(at)); pen.lineTo(this.base.width, this.y(at)); pen.stroke();
      pen.fillText(`${Math.abs(at)}°${at < 0 ? "S" : "N"}`, 3, this.y(at) - 3);
    }
    for (const [width, style] of [[2.6, "rgba(0,0,0,.55)"], [1.1, "#fff"]]) {
      pen.lineWidth = width; pen.strokeStyle = style;
      for (const turn of [-360, 0, 360])
        for (const line of this.coastlines) {
          pen.beginPath();
          for (let at = 0; at < line.length; at += 2) {
            // Arcs that cross the meridian of 180° begin anew on the other side.
            const isFar = at > 0 && Math.abs(line[at] - line[at - 2]) > 18000;
            pen[isFar ? "moveTo" : "lineTo"](this.x(line[at] / 100 + turn), this.y(line[at + 1] / 100));
          }
          pen.stroke();
        }
    }
  }

  draw() {
    const pen = this.pen;
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.base, 0, 0);
    this.drawTracks(pen);
    if (!this.cursor) return;
    const x = this.x(this.cursor.longitude), y = this.y(this.cursor.latitude);
    for (const [width, style] of [[4, "#000"], [2, "#fff"]]) {
      pen.lineWidth = width; pen.strokeStyle = style;
      pen.beginPath(); pen.arc(x, y, 6, 0, 7); pen.moveTo(x - 11, y); pen.lineTo(x + 11, y); pen.moveTo(x, y - 11); pen.lineTo(x, y + 11); pen.stroke();
    }
  }

  // Cones below, then tracks as they were found (solid) and as they are forecast (dashed), and where a cyclone is at this time.
  drawTracks(pen) {
    const through = (places, turn) => {
      pen.beginPath();
      places.forEach(([longitude, latitude], at) => pen[at ? "lineTo" : "moveTo"](this.x(longitude + turn), this.y(latitude)));
    };
    const dot = ([longitude, latitude], turn, radius) => {
      pen.beginPath(); pen.arc(this.x(longitude + turn), this.y(latitude), radius, 0, 7); pen.fill(); pen.stroke();
    };
    const each = (kind, draw) => {
      for (const feature of this.tracks.filter(kind)) for (const turn of [-360, 0, 360]) draw(feature, turn);
    };
    pen.save();
    pen.lineJoin = "round";
    each(({ geometry }) => geometry.type === "Polygon", ({ geometry }, turn) => {
      through(geometry.coordinates[0], turn);
      pen.fillStyle = "rgba(255,255,255,.22)"; pen.strokeStyle = "rgba(0,0,0,.55)"; pen.lineWidth = 1; pen.fill(); pen.stroke();
    });
    each(({ geometry }) => geometry.type === "LineString", ({ geometry, properties }, turn) => {
      pen.setLineDash(properties.kind === "track" ? [7, 5] : []);
      for (const [width, style] of [[5, "#000"], [2.5, "#ff4d4d"]]) {
        pen.lineWidth = width; pen.strokeStyle = style;
        through(geometry.coordinates, turn);
        pen.stroke();
      }
      pen.setLineDash([]);
      pen.lineWidth = 1.5; pen.strokeStyle = "#000"; pen.fillStyle = "#ff4d4d";
      const now = (properties.times ?? []).findIndex((time) => Date.parse(time) === this.time);
      geometry.coordinates.forEach((place, at) => dot(place, turn, at === now ? 8 : 3));
    });
    pen.restore();
  }

  // One frame of the particles; u and v in m/s at the grid's points. Told is the way, not the speed in any scale.
  blow(u, v) {
    const { width, height } = this.canvas, pen = this.pen;
    while (this.particles.length < PARTICLES) this.particles.push({ x: Math.random(), y: Math.random(), age: Math.random() * LIFE });
    this.draw();
    pen.strokeStyle = "rgba(255,255,255,.85)"; pen.lineWidth = 1.3;
    pen.beginPath();
    for (const each of this.particles) {
      const east = this.sample(u, each.x, each.y), south = -this.sample(v, each.x, each.y);
      const next = { x: each.x + (east * 0.12) / width, y: each.y + (south * 0.12) / height };
      each.age += 1;
      if (each.age > LIFE || !(next.x > 0 && next.x < 1 && next.y > 0 && next.y < 1)) {
        each.x = Math.random(); each.y = Math.random(); each.age = 0;
        continue;
      }
      pen.moveTo((each.x - (east * 0.7) / width) * width, (each.y - (south * 0.7) / height) * height);
      pen.lineTo(next.x * width, next.y * height);
      each.x = next.x; each.y = next.y;
    }
    pen.stroke();
  }
}
