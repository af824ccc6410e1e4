// Gohttp answers the orders of a file the way most services are first written: net/http, a map behind a mutex.
// With -mode marshal every answer is made again by json.Marshal; with -mode bytes all bytes are ready beforehand.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// As many orders as the service's list holds unless told otherwise.
const listMax = 1000

type order struct {
	OrderUID          string   `json:"order_uid"`
	TrackNumber       string   `json:"track_number"`
	Entry             string   `json:"entry"`
	Delivery          delivery `json:"delivery"`
	Payment           payment  `json:"payment"`
	Items             []item   `json:"items"`
	Locale            string   `json:"locale"`
	InternalSignature string   `json:"internal_signature"`
	CustomerID        string   `json:"customer_id"`
	DeliveryService   string   `json:"delivery_service"`
	Shardkey          string   `json:"shardkey"`
	SmID              int      `json:"sm_id"`
	DateCreated       string   `json:"date_created"`
	OofShard          string   `json:"oof_shard"`
}

type delivery struct {
	Name    string `json:"name"`
	Phone   string `json:"phone"`
	Zip     string `json:"zip"`
	City    string `json:"city"`
	Address string `json:"address"`
	Region  string `json:"region"`
	Email   string `json:"email"`
}

type payment struct {
	Transaction  string `json:"transaction"`
	RequestID    string `json:"request_id"`
	Currency     string `json:"currency"`
	Provider     string `json:"provider"`
	Amount       int    `json:"amount"`
	PaymentDT    int64  `json:"payment_dt"`
	Bank         string `json:"bank"`
	DeliveryCost int    `json:"delivery_cost"`
	GoodsTotal   int    `json:"goods_total"`
	CustomFee    int    `json:"custom_fee"`
}

type item struct {
	ChrtID      int64  `json:"chrt_id"`
	TrackNumber string `json:"track_number"`
	Price       int    `json:"price"`
	Rid         string `json:"rid"`
	Name        string `json:"name"`
	Sale        int    `json:"sale"`
	Size        string `json:"size"`
	TotalPrice  int    `json:"total_price"`
	NmID        int64  `json:"nm_id"`
	Brand       string `json:"brand"`
	Status      int    `json:"status"`
}

// source is what both modes have in common: bytes of an order, bytes of a list.
type source interface {
	one(id string) ([]byte, bool)
	list(limit int) []byte
	// listGzip is the whole list compressed, or nil.
	listGzip() []byte
}

// structs holds decoded orders and encodes them for every answer.
type structs struct {
	mutex  sync.RWMutex
	byID   map[string]*order
	newest []*order
}

func (s *structs) one(id string) ([]byte, bool) {
	s.mutex.RLock()
	found, ok := s.byID[id]
	s.mutex.RUnlock()
	if !ok {
		return nil, false
	}
	return marshal(found), true
}

func (s *structs) list(limit int) []byte {
	s.mutex.RLock()
	newest := s.newest[:min(limit, len(s.newest))]
	s.mutex.RUnlock()
	return marshal(newest)
}

func (s *structs) listGzip() []byte { return nil }

func marshal(value any) []byte {
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err) // strings and numbers always have an encoding
	}
	return encoded
}

// ready holds the bytes of every order and of the whole list.
type ready struct {
	mutex      sync.RWMutex
	byID       map[string][]byte
	newest     [][]byte
	whole      []byte
	compressed []byte
}

func (r *ready) one(id string) ([]byte, bool) {
	r.mutex.RLock()
	defer r.mutex.RUnlock()
	found, ok := r.byID[id]
	return found, ok
}

func (r *ready) list(limit int) []byte {
	r.mutex.RLock()
	defer r.mutex.RUnlock()
	if limit >= len(r.newest) {
		return r.whole
	}
	return joined(r.newest[:limit])
}

func (r *ready) listGzip() []byte {
	r.mutex.RLock()
	defer r.mutex.RUnlock()
	return r.compressed
}

func joined(orders [][]byte) []byte {
	list := append([]byte{'['}, bytes.Join(orders, []byte{','})...)
	return append(list, ']')
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to answer on")
	mode := flag.String("mode", "bytes", "marshal: encode every answer; bytes: all bytes are ready")
	file := flag.String("orders", "", "orders, one a line, newest first")
	flag.Parse()
	source, err := load(*file, *mode)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: *listen, Handler: handler(source), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

func load(file, mode string) (source, error) {
	opened, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	decoded := &structs{byID: map[string]*order{}}
	raw := &ready{byID: map[string][]byte{}}
	lines := bufio.NewScanner(opened)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		one := &order{}
		if err := json.Unmarshal(lines.Bytes(), one); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		line := bytes.Clone(lines.Bytes())
		decoded.byID[one.OrderUID], raw.byID[one.OrderUID] = one, line
		if len(decoded.newest) < listMax {
			decoded.newest, raw.newest = append(decoded.newest, one), append(raw.newest, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	switch mode {
	case "marshal":
		return decoded, nil
	case "bytes":
		raw.whole = joined(raw.newest)
		var compressed bytes.Buffer
		writer, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		if _, err := writer.Write(raw.whole); err != nil {
			return nil, err
		}
		if err := writer.Close(); err != nil {
			return nil, err
		}
		raw.compressed = compressed.Bytes()
		return raw, nil
	}
	return nil, fmt.Errorf("-mode %s: neither marshal nor bytes", mode)
}

func handler(source source) http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /order/{id}", func(w http.ResponseWriter, r *http.Request) {
		if body, ok := source.one(r.PathValue("id")); ok {
			answer(w, `"1"`, body)
		} else {
			http.NotFound(w, r)
		}
	})
	routes.HandleFunc("GET /api/orders", func(w http.ResponseWriter, r *http.Request) {
		limit := listMax
		if asked := r.URL.Query().Get("limit"); asked != "" {
			var err error
			if limit, err = strconv.Atoi(asked); err != nil || limit < 1 {
				http.Error(w, "limit is no number of orders", http.StatusBadRequest)
				return
			}
		} else if compressed := source.listGzip(); compressed != nil && acceptsGzip(r) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Vary", "Accept-Encoding")
			answer(w, `"list-gzip"`, compressed)
			return
		}
		answer(w, `"list"`, source.list(limit))
	})
	return routes
}

func acceptsGzip(r *http.Request) bool {
	for _, coding := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(coding) == "gzip" {
			return true
		}
	}
	return false
}

// answer writes the headers that the service writes, and the bytes. net/http adds the date.
func answer(w http.ResponseWriter, etag string, body []byte) {
	headers := w.Header()
	headers.Set("Content-Type", "application/json")
	headers.Set("Etag", etag)
	headers.Set("Cache-Control", "no-cache")
	headers.Set("Content-Length", strconv.Itoa(len(body)))
	// A client that went away is no error of ours.
	_, _ = w.Write(body)
}
