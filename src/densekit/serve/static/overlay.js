// The class activation map: a veil that is denser where the evidence for the class is stronger, and a line around
// everything at least half as strong as the strongest place, for people who do not see the colour.

const SIDE = 240; // cells of the grid that the map is interpolated on, along its longer side
const VEIL = [255, 122, 0];
const DENSEST = 0.9;
const EDGE = 0.5;
const LINES = [["#000", 3.5], ["#fff", 1.6]]; // colours and CSS pixels

// Draws a map, rows of numbers, on a canvas of so many device pixels. How strongly it shows is the canvas's opacity.
export function drawMap(canvas, map, width, height, density) {
  Object.assign(canvas, { width, height });
  const grid = shares(map);
  if (!grid) return;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(veil(grid), 0, 0, width, height);
  context.lineCap = context.lineJoin = "round";
  const path = outline(grid, width / grid.columns, height / grid.rows);
  for (const [colour, thickness] of LINES) {
    context.strokeStyle = colour;
    context.lineWidth = thickness * density;
    context.stroke(path);
  }
}

// [row, column] of the strongest cell, each 0 to 2 from the upper left; null where nothing speaks for the class.
export function strongest(map) {
  let best = { value: 0, row: -1, column: -1 };
  map.forEach((cells, row) => cells.forEach((value, column) => {
    if (value > best.value) best = { value, row, column };
  }));
  if (best.row < 0) return null;
  const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
  return [third(best.row, map.length), third(best.column, map[0].length)];
}

// The map on a finer grid, each value from 0 to 1 of the largest; null where nothing speaks for the class.
function shares(map) {
  const most = Math.max(...map.flat());
  if (most <= 0) return null;
  const [down, along] = [map.length, map[0].length];
  const columns = along >= down ? SIDE : Math.round((SIDE * along) / down);
  const rows = down >= along ? SIDE : Math.round((SIDE * down) / along);
  const values = new Float32Array(columns * rows);
  for (let y = 0; y < rows; y += 1) {
    for (let x = 0; x < columns; x += 1) {
      const value = between(map, ((x + 0.5) * along) / columns - 0.5, ((y + 0.5) * down) / rows - 0.5);
      values[y * columns + x] = Math.max(0, value / most);
    }
  }
  return { columns, rows, values };
}

// Bilinear, the value of each cell at its middle.
function between(map, x, y) {
  const [bottom, right] = [map.length - 1, map[0].length - 1];
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [along, down] = [x - left, y - top];
  const cell = (row, column) => map[Math.min(bottom, Math.max(0, row))][Math.min(right, Math.max(0, column))];
  const upper = cell(top, left) * (1 - along) + cell(top, left + 1) * along;
  const lower = cell(top + 1, left) * (1 - along) + cell(top + 1, left + 1) * along;
  return upper * (1 - down) + lower * down;
}

function veil({ columns, rows, values }) {
  const picture = new ImageData(columns, rows);
  for (let at = 0; at < values.length; at += 1) {
    [picture.data[4 * at], picture.data[4 * at + 1], picture.data[4 * at + 2]] = VEIL;
    picture.data[4 * at + 3] = 255 * DENSEST * values[at];
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

// Marching squares between the middles of neighbouring cells; nothing beyond the border is inside.
function outline({ columns, rows, values }, wide, high) {
  const value = (x, y) => (x < 0 || y < 0 || x >= columns || y >= rows ? 0 : values[y * columns + x]);
  const path = new Path2D();
  for (let y = -1; y < rows; y += 1) {
    for (let x = -1; x < columns; x += 1) {
      const around = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]];
      const inside = around.filter(([i, j]) => value(i, j) >= EDGE).length;
      if (inside === 0 || inside === 4) continue;
      const corners = around.map(([i, j]) => ({ x: i, y: j, value: value(i, j) }));
      for (const [from, to] of pieces(corners)) {
        path.moveTo((from.x + 0.5) * wide, (from.y + 0.5) * high);
        path.lineTo((to.x + 0.5) * wide, (to.y + 0.5) * high);
      }
    }
  }
  return path;
}

// The pieces of the line in one square, whose corners go round it: one, or two where it has a saddle.
function pieces(corners) {
  const crossings = corners.map((corner, index) => crossing(corner, corners[(index + 1) % 4]));
  const found = crossings.filter(Boolean);
  if (found.length === 2) return [found];
  const middle = corners.reduce((sum, corner) => sum + corner.value, 0) / 4;
  const [top, right, bottom, left] = crossings;
  return (middle >= EDGE) === (corners[0].value >= EDGE) ? [[top, right], [bottom, left]] : [[left, top], [right, bottom]];
}

function crossing(a, b) {
  if ((a.value >= EDGE) === (b.value >= EDGE)) return null;
  const share = (EDGE - a.value) / (b.value - a.value);
  return { x: a.x + share * (b.x - a.x), y: a.y + share * (b.y - a.y) };
}
