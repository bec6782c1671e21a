// The class activation map over the picture: a veil that is denser where more speaks for the class, and a line around
// where that is at least half of the most. The line is there for whoever does not see the colour.

const SIDE = 240; // pixels of the canvas; the page scales it
const VEIL = [255, 122, 0];
const DENSEST = 0.9;
const EDGE = 0.5;

// `map` is rows of numbers; `strength` is 0 to 1.
export function drawMap(canvas, map, strength) {
  const [rows, columns] = [map.length, map[0].length];
  canvas.width = columns >= rows ? SIDE : Math.round((SIDE * columns) / rows);
  canvas.height = rows >= columns ? SIDE : Math.round((SIDE * rows) / columns);
  const most = Math.max(...map.flat());
  if (most <= 0 || strength <= 0) return;
  const { width, height } = canvas;
  const share = new Float32Array(width * height);
  const picture = new ImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = y * width + x;
      share[at] = Math.max(0, between(map, ((x + 0.5) * columns) / width - 0.5, ((y + 0.5) * rows) / height - 0.5) / most);
      picture.data.set([...VEIL, 255 * DENSEST * strength * share[at]], 4 * at);
    }
  }
  const context = canvas.getContext("2d");
  context.putImageData(picture, 0, 0);
  outline(context, share, width, height, strength);
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

function outline(context, share, width, height, strength) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && share[y * width + x] >= EDGE;
  const path = new Path2D();
  for (let y = 0; y <= height; y += 1) {
    for (let x = 0; x <= width; x += 1) {
      if (inside(x, y) !== inside(x - 1, y)) line(path, x, y, x, y + 1);
      if (inside(x, y) !== inside(x, y - 1)) line(path, x, y, x + 1, y);
    }
  }
  context.globalAlpha = Math.min(1, 2 * strength);
  context.lineCap = "round";
  for (const [colour, thickness] of [["#000", 3.5], ["#fff", 1.6]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

function line(path, x1, y1, x2, y2) {
  path.moveTo(x1, y1);
  path.lineTo(x2, y2);
}
